"""The classes of the synthetic data set: knobs, looks, hierarchy and frequencies.

A look is a shape, a colour and a pattern; a detector can tell looks apart and nothing else. Most leaf classes have a
look of their own. Two leaves may share one: either both are true ("wheel" and "tyre", a multi-label pair), or the
annotator picks one of them at random (a confusable pair).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import brentq

from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.synthetic.shapes import COLOURS, SHAPES

PATTERNS = ('plain', 'striped', 'dotted')
MAX_LOOKS = len(SHAPES) * len(COLOURS) * len(PATTERNS)
_LOOKS_PER_SHAPE = 3  # as long as the shapes last


def _knob(default: float, low: float, high: float, help: str) -> Any:
    return field(default=default, metadata={'low': low, 'high': high, 'help': help})


@dataclass(frozen=True)
class WorldConfig:
    """The knobs of a data set. The same knobs give the same files, with the same numpy and Pillow.

    Each field has its range and help text in its metadata; ``make_synthetic_openimages.py --help`` prints them.
    0 switches an effect off.

    Raises:
        ValueError: A knob is out of range, or two knobs exclude each other.
    """

    num_train: int = _knob(1500, 1, 10_000_000, 'training images')
    num_validation: int = _knob(300, 0, 10_000_000, 'validation images')
    image_size: int = _knob(160, 96, 1024, 'longer side in pixels; the shorter one is 0.65 to 1 of it')
    num_classes: int = _knob(20, 4, 400, 'leaf classes; their parents are added')
    imbalance: float = _knob(50.0, 1, 1e6, 'expected images of the most frequent leaf class / of the rarest, geometric')
    objects_per_image: float = _knob(4.0, 1, 12, 'mean number of objects in an image that is not empty')
    empty_rate: float = _knob(0.03, 0, 0.9, 'images without objects; they still have negative labels')
    multi_label_rate: float = _knob(0.3, 0, 1, 'leaf classes that share their look with another true leaf class')
    both_labels_rate: float = _knob(
        0.6, 0, 1, 'objects of such a look with both labels, the others have one (at most the ratio of frequencies)'
    )
    confusable_pairs: int = _knob(1, 0, 200, 'pairs of leaf classes with one look, of which annotators pick one')
    parent_only_rate: float = _knob(0.05, 0, 0.9, 'objects labelled with an ancestor class only')
    group_of_rate: float = _knob(0.04, 0, 1, 'objects that are a cluster of 5 to 9 under one IsGroupOf box')
    unverified_rate: float = _knob(0.05, 0, 0.9, 'classes present in an image but not annotated there at all')
    negatives_per_image: float = _knob(2.0, 0, 50, 'mean number of image-level labels with confidence 0')
    max_overlap: float = _knob(0.3, 0, 0.6, 'largest part of an object box that another object may cover')
    seed: int = _knob(0, 0, 2**32 - 1, 'seed of the images; the classes do not depend on it')

    def __post_init__(self) -> None:
        for knob in fields(self):
            value, low, high = getattr(self, knob.name), knob.metadata['low'], knob.metadata['high']
            if not low <= value <= high:
                raise ValueError(f'{knob.name}: must be in [{low}, {high}], got {value!r}')
        pairs = self.num_pairs
        if 2 * pairs > self.num_classes - 2:
            raise ValueError(
                f'multi_label_rate={self.multi_label_rate} and confusable_pairs={self.confusable_pairs} make {pairs} '
                f'pairs; num_classes={self.num_classes} leaves room for {(self.num_classes - 2) // 2}'
            )
        if self.num_classes - pairs > MAX_LOOKS:
            raise ValueError(f'num_classes={self.num_classes} needs {self.num_classes - pairs} looks of {MAX_LOOKS}')

    @property
    def num_pairs(self) -> int:
        """Pairs of leaf classes that share a look."""
        return round(self.multi_label_rate * self.num_classes / 2) + self.confusable_pairs


@dataclass(frozen=True)
class Kind:
    """A look with the one or two leaf classes that share it."""

    shape: str  # keys of SHAPES and COLOURS, one of PATTERNS
    colour: str
    pattern: str
    labels: tuple[int, ...]  # class indices, the more frequent one first
    share: float  # probability that an object has this look
    label_sets: tuple[tuple[int, ...], ...]  # what annotators may give
    probabilities: tuple[float, ...]  # of the label sets


@dataclass(frozen=True, eq=False)
class World:
    """Classes (a MID, a unique display name), their hierarchy, and the looks from the most to the least frequent."""

    config: WorldConfig
    label_names: tuple[str, ...]
    names: tuple[str, ...]
    tree: dict[str, Any]
    hierarchy: ClassHierarchy
    kinds: tuple[Kind, ...]


@cache
def build_world(config: WorldConfig) -> World:
    """Makes classes, hierarchy and frequencies; the same for every ``config.seed``."""
    # Classes have frequency ranks; 0 is the most frequent. The two classes of a pair have neighbouring ranks. The pairs
    # are spread over all but the first and the last rank, and the confusable pairs over the pairs.
    pairs, confusable = config.num_pairs, config.confusable_pairs
    starts = [1 + i * (config.num_classes - 2) // pairs for i in range(pairs)]
    confused = {starts[(2 * i + 1) * pairs // (2 * confusable)] for i in range(confusable)}
    firsts = [rank for rank in range(config.num_classes) if rank - 1 not in starts]
    looks = _choose_looks(len(firsts))

    leaves: list[tuple[str, ...]] = []  # names of each look
    parents: dict[str, tuple[str, ...]] = {}  # of every class name
    for rank, (shape, colour, pattern) in zip(firsts, looks):
        adjective = colour if pattern == 'plain' else f'{pattern} {colour}'
        above = (shape,) if pattern == 'plain' else (shape, f'{pattern.capitalize()} thing')
        new = {f'{adjective} {shape.lower()}'.capitalize(): above}
        if rank in confused:
            new[f'Replica {adjective} {shape.lower()}'] = above
        elif rank in starts:
            # Two true labels of one object have different parents: otherwise the parent had two boxes per object.
            new[f'{adjective} {SHAPES[shape].second_name}'.capitalize()] = ('Toy',)
        leaves.append(tuple(new))
        parents |= {**new, shape: SHAPES[shape].parents}
    parents |= {top: () for names in list(parents.values()) for top in names if top not in parents}
    names = tuple(sorted(parents))
    label_names = tuple(f'/m/0syn{i:02d}' for i in range(len(names)))
    tree = {'LabelName': '/m/0synroot', 'Subcategory': _subtree('', parents, dict(zip(names, label_names)))}

    kinds = []
    frequencies = _frequencies(config, np.array(firsts), starts, confused).tolist()
    for rank, look, own_names, (share, both, first, second) in zip(firsts, looks, leaves, frequencies):
        labels = tuple(names.index(name) for name in own_names)
        sets: dict[tuple[int, ...], float] = {labels: 1.0}
        if rank in confused:
            sets = {labels[:1]: 0.5, labels[1:]: 0.5}
        elif rank in starts:
            sets = {labels: both, labels[:1]: first / share - both, labels[1:]: max(0.0, second / share - both)}
        kinds.append(Kind(*look, labels, share, tuple(sets), tuple(sets.values())))
    return World(config, label_names, names, tree, ClassHierarchy(tree, label_names), tuple(kinds))


def _subtree(above: str, parents: dict[str, tuple[str, ...]], mids: dict[str, str]) -> list[dict[str, Any]]:
    """Entries below a class ('' is the root); a class of two parents is written below both, with its subtree."""
    entries: list[dict[str, Any]] = []
    for name in sorted(parents):
        if above in (parents[name] or ('',)):
            below = _subtree(name, parents, mids)
            entries.append({'LabelName': mids[name], 'Subcategory': below} if below else {'LabelName': mids[name]})
    return entries


def _choose_looks(count: int) -> list[tuple[str, str, str]]:
    """Shape, colour and pattern of each look: few shapes, several colours and patterns each, well mixed."""
    shapes = list(SHAPES)[: max(4, math.ceil(count / _LOOKS_PER_SHAPE))]
    looks = []
    for i in range(count):
        variant, shape = divmod(i, len(shapes))
        variant += 7 * shape  # otherwise all first looks had the same colour; 7 mixes the patterns too
        step = variant % len(COLOURS)
        pattern = PATTERNS[(step + variant // len(COLOURS)) % len(PATTERNS)]
        looks.append((shapes[shape], list(COLOURS)[step], pattern))
    order = np.random.default_rng(0).permutation(count)  # frequency must not depend on the shape
    return [looks[i] for i in order]


def _frequencies(config: WorldConfig, firsts: np.ndarray, starts: list[int], confused: set[int]) -> np.ndarray:
    """(L, 4) of each look: the share of objects with it, the part of these with both labels, and each label's share.

    ``imbalance`` is about images, and an image with three red circles counts once. So the expected images are fixed
    first and then turned into shares of objects: with 1 + Poisson(m - 1) objects, an image shows a label that a share v
    of the objects carries with probability ``1 - (1 - v) exp(-(m - 1) v)``.
    """
    profile = config.imbalance ** (-np.arange(config.num_classes) / (config.num_classes - 1))
    for rank in confused:
        profile[rank : rank + 2] = math.sqrt(profile[rank] * profile[rank + 1])
    paired, truly_paired = np.isin(firsts, starts), np.isin(firsts, list(set(starts) - confused))
    shares = np.linspace(0, 1, 20_001)
    seen = shares * (1 - config.parent_only_rate)
    presence = 1 - (1 - seen) * np.exp(-(config.objects_per_image - 1) * seen)

    def at_scale(scale: float) -> np.ndarray:
        label_shares = np.interp(scale * profile, presence, shares)
        first, second = label_shares[firsts], np.where(paired, np.append(label_shares, 0)[firsts + 1], 0)
        both = np.where(truly_paired, np.minimum(config.both_labels_rate, second / first), 0)
        return np.stack([(first + second) / (1 + both), both, first, second], axis=1)

    scale = brentq(lambda scale: sum(at_scale(scale)[:, 0].tolist()) - 1, 1e-9, presence[-1])
    return at_scale(scale)
