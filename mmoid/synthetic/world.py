"""The classes of the synthetic data set: knobs, looks, hierarchy, and how often each class is seen.

A look is shape x colour x pattern; what a detector can tell apart is looks. Mostly one leaf class stands for one look,
but two leaves may share one: either both are true of it ("wheel" and "tyre": a multi-label pair), or the annotator
tosses a coin (a confusable pair).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from mmoid.openimages.hierarchy import ClassHierarchy

ROOT = '/m/0synroot'


class Shape(NamedTuple):
    """A family of looks: classes above it, and what a second class of the same look is called."""

    parents: tuple[str, ...]
    alias: str


# Distinct under any rotation even at 16 px. The first ones are used first.
SHAPES = {
    'Circle': Shape(('Round shape',), 'disc'),
    'Square': Shape(('Polygon',), 'tile'),
    'Star': Shape(('Symbol',), 'badge'),
    'Ring': Shape(('Round shape', 'Hollow shape'), 'hoop'),
    'Triangle': Shape(('Polygon',), 'wedge'),
    'Cross': Shape(('Symbol',), 'plus'),
    'Heart': Shape(('Symbol',), 'valentine'),
    'Bar': Shape(('Polygon',), 'stick'),
    'Crescent': Shape(('Round shape',), 'moon'),
    'Frame': Shape(('Polygon', 'Hollow shape'), 'window'),
    'Arrow': Shape(('Symbol',), 'pointer'),
    'Oval': Shape(('Round shape',), 'egg'),
}
# Saturated hues 60 degrees apart; the backgrounds are grey.
COLOURS = {
    'red': (225, 30, 35),
    'yellow': (240, 220, 25),
    'green': (30, 170, 45),
    'cyan': (20, 205, 225),
    'blue': (35, 60, 225),
    'magenta': (220, 45, 200),
}
PATTERNS = ('plain', 'striped', 'dotted')
ALIAS_PARENT = 'Toy'
MAX_LOOKS = len(SHAPES) * len(COLOURS) * len(PATTERNS)
_LEAVES_PER_SHAPE = 3  # as long as the shapes last


def _knob(default: float, low: float, high: float, help: str) -> Any:
    return field(default=default, metadata={'low': low, 'high': high, 'help': help})


@dataclass(frozen=True)
class WorldConfig:
    """Everything that decides what the data set holds. Same config (and numpy, Pillow), same bytes.

    Each field carries its meaning and allowed range in its metadata (``tools/dataset_converters/make_synthetic_openimages.py --help``
    prints them). A rate, count of pairs or ``negatives_per_image`` of 0 switches that effect off.

    Raises:
        ValueError: A knob of the wrong type or out of range, or knobs that do not go together.
    """

    num_train: int = _knob(1500, 1, 10_000_000, 'training images')
    num_validation: int = _knob(300, 0, 10_000_000, 'validation images')
    image_size: int = _knob(160, 96, 1024, 'longer side in pixels; the shorter one is 0.65 to 1 of it')
    num_classes: int = _knob(20, 4, 400, 'leaf classes; their parents come on top')
    imbalance: float = _knob(50.0, 1, 1e6, 'expected images of the most frequent leaf class / of the rarest, geometric')
    objects_per_image: float = _knob(4.0, 1, 12, 'mean number of objects in an image that is not empty')
    empty_rate: float = _knob(0.03, 0, 0.9, 'images without objects; they still get negative labels')
    multi_label_rate: float = _knob(0.3, 0, 1, 'leaf classes that share their look with another true leaf class')
    both_labels_rate: float = _knob(
        0.6, 0, 1, 'objects of such a look with both labels, the others have one (at most the ratio of frequencies)'
    )
    confusable_pairs: int = _knob(1, 0, 200, 'pairs of leaf classes with one look, labelled by the toss of a coin')
    parent_only_rate: float = _knob(0.05, 0, 0.9, 'objects labelled with an ancestor class only')
    group_of_rate: float = _knob(0.04, 0, 1, 'objects that are a cluster of 5 to 9 under one IsGroupOf box')
    unverified_rate: float = _knob(0.05, 0, 0.9, 'classes present in an image but not annotated there at all')
    negatives_per_image: float = _knob(2.0, 0, 50, 'mean number of image-level labels with confidence 0')
    max_overlap: float = _knob(0.3, 0, 0.6, 'largest part of an object box that another object may cover')
    seed: int = _knob(0, 0, 2**32 - 1, 'seed of the images; the classes do not depend on it')

    def __post_init__(self) -> None:
        for knob in fields(self):
            value, low, high = getattr(self, knob.name), knob.metadata['low'], knob.metadata['high']
            kinds = (int,) if isinstance(knob.default, int) else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
                kind = 'an integer' if kinds == (int,) else 'a number'
                raise ValueError(f'{knob.name}: must be {kind} in [{low}, {high}], got {value!r}')
        pairs = self.multi_label_pairs + self.confusable_pairs
        if 2 * pairs > self.num_classes - 2:
            raise ValueError(
                f'multi_label_rate={self.multi_label_rate} and confusable_pairs={self.confusable_pairs} make {pairs} '
                f'pairs; num_classes={self.num_classes} leaves room for {(self.num_classes - 2) // 2}'
            )
        if self.num_classes - pairs > MAX_LOOKS:
            raise ValueError(
                f'num_classes={self.num_classes} needs {self.num_classes - pairs} looks, {MAX_LOOKS} can be drawn'
            )

    @property
    def multi_label_pairs(self) -> int:
        """Pairs of leaf classes that are both true of one look."""
        return round(self.multi_label_rate * self.num_classes / 2)


class Look(NamedTuple):
    """What can be seen: keys of ``SHAPES`` and ``COLOURS``, one of ``PATTERNS``."""

    shape: str
    colour: str
    pattern: str

    @property
    def colour_words(self) -> str:
        """'red' or 'striped red'."""
        return self.colour if self.pattern == 'plain' else f'{self.pattern} {self.colour}'


@dataclass(frozen=True)
class Kind:
    """A look with the leaf classes that stand for it.

    Attributes:
        look: The look.
        share: Probability that an object has this look.
        label_sets: Leaf labels (class indices) that the annotator may give, before any parent-only object.
        probabilities: Of each label set; they sum to 1.
        coin_toss: True where only one of the labels is true, whichever was given.
    """

    look: Look
    share: float
    label_sets: tuple[tuple[int, ...], ...]
    probabilities: tuple[float, ...]
    coin_toss: bool

    @property
    def labels(self) -> tuple[int, ...]:
        """All leaf classes that stand for the look, ascending."""
        return tuple(sorted({label for labels in self.label_sets for label in labels}))


@dataclass(frozen=True, eq=False)
class World:
    """The classes and looks that :func:`build_world` made.

    Attributes:
        config: The knobs.
        label_names: MIDs; position is class index.
        names: Human names, unique, by class index.
        tree: The hierarchy as the official JSON nests it.
        hierarchy: The same as :class:`ClassHierarchy` over ``label_names``.
        kinds: All looks that occur.
        leaf_labels: Class indices of the leaves, most frequent first.
    """

    config: WorldConfig
    label_names: tuple[str, ...]
    names: tuple[str, ...]
    tree: dict[str, Any]
    hierarchy: ClassHierarchy
    kinds: tuple[Kind, ...]
    leaf_labels: tuple[int, ...]


def build_world(config: WorldConfig) -> World:
    """Makes classes, hierarchy and frequencies; the same for every ``config.seed``."""
    ranks, coin_tosses = _ranks_of_kinds(config)
    looks = _choose_looks(len(ranks))
    parents: dict[str, tuple[str, ...]] = {}  # of every class name
    leaf_names = [''] * config.num_classes
    for look, members, coin_toss in zip(looks, ranks, coin_tosses, strict=True):
        name = f'{look.colour_words} {look.shape.lower()}'
        above = (look.shape,) if look.pattern == 'plain' else (look.shape, f'{look.pattern.capitalize()} thing')
        leaf_names[members[0]] = name.capitalize()
        parents[name.capitalize()] = above
        if len(members) == 2:
            # Two true labels of one object have different parents: else each parent got two boxes per object.
            alias = f'Replica {name}' if coin_toss else f'{look.colour_words} {SHAPES[look.shape].alias}'.capitalize()
            leaf_names[members[1]] = alias
            parents[alias] = above if coin_toss else (ALIAS_PARENT,)
        parents[look.shape] = SHAPES[look.shape].parents
    for name in {above for names in parents.values() for above in names} - set(parents):
        parents[name] = ()

    names = tuple(sorted(parents))
    index = {name: i for i, name in enumerate(names)}
    label_names = tuple(f'/m/0syn{i:02d}' for i in range(len(names)))
    tree = {'LabelName': ROOT, 'Subcategory': _subtree((), parents, dict(zip(names, label_names, strict=True)))}
    leaf_labels = tuple(index[name] for name in leaf_names)
    kinds = tuple(
        Kind(look, share, tuple(tuple(leaf_labels[rank] for rank in members) for members in sets), odds, coin_toss)
        for look, coin_toss, (share, sets, odds) in zip(looks, coin_tosses, _label_odds(config), strict=True)
    )
    return World(config, label_names, names, tree, ClassHierarchy(tree, label_names), kinds, leaf_labels)


def _subtree(above: tuple[str, ...], parents: dict[str, tuple[str, ...]], mids: dict[str, str]) -> list[dict[str, Any]]:
    """Entries below the last class of ``above``; a class with two parents is written below both, with its subtree."""
    entries: list[dict[str, Any]] = []
    for name in sorted(parents):
        if above[-1] in parents[name] if above else not parents[name]:
            below = _subtree((*above, name), parents, mids)
            entries.append({'LabelName': mids[name], 'Subcategory': below} if below else {'LabelName': mids[name]})
    return entries


def _choose_looks(count: int) -> list[Look]:
    """Few shapes with several colours and patterns each, in an order that mixes all three."""
    shapes = list(SHAPES)[: min(len(SHAPES), max(4, math.ceil(count / _LEAVES_PER_SHAPE)))]
    colours = list(COLOURS)
    looks = []
    for i in range(count):
        variant, shape = divmod(i, len(shapes))
        variant += 7 * shape  # else all first looks would have the same colour; 7 mixes the patterns too
        step = variant % len(colours)
        pattern = PATTERNS[(step + variant // len(colours)) % len(PATTERNS)]
        looks.append(Look(shapes[shape], colours[step], pattern))
    order = np.random.default_rng(0).permutation(count)  # frequency must not go along with the shape
    return [looks[i] for i in order]


def _ranks_of_kinds(config: WorldConfig) -> tuple[list[tuple[int, ...]], list[bool]]:
    """Frequency ranks (0 = most frequent) that share a look, and whether by coin toss.

    Pairs have neighbouring ranks, spread over the profile, and leave its two ends alone.
    """
    pairs = config.multi_label_pairs + config.confusable_pairs
    room = config.num_classes - 2
    starts = {1 + i * room // pairs: i for i in range(pairs)}
    tossed = {(2 * i + 1) * pairs // (2 * config.confusable_pairs) for i in range(config.confusable_pairs)}
    ranks: list[tuple[int, ...]] = []
    coin_tosses = []
    rank = 0
    while rank < config.num_classes:
        ranks.append((rank, rank + 1) if rank in starts else (rank,))
        coin_tosses.append(starts.get(rank, -1) in tossed)
        rank += len(ranks[-1])
    return ranks, coin_tosses


def _label_odds(config: WorldConfig) -> list[tuple[float, tuple[tuple[int, ...], ...], tuple[float, ...]]]:
    """Per look: its share of the objects, the label sets (of ranks) and their probabilities.

    ``imbalance`` is about images, and an image with three red circles counts once. So the expected images are fixed
    first, then turned into shares of objects: with 1 + Poisson(m - 1) objects, an image shows a label that a share v
    of the objects carries with probability ``1 - (1 - v) exp(-(m - 1) v)``.
    """
    ranks, coin_tosses = _ranks_of_kinds(config)
    profile = config.imbalance ** (-np.arange(config.num_classes) / (config.num_classes - 1))
    for members, coin_toss in zip(ranks, coin_tosses, strict=True):
        if coin_toss:  # a fair coin makes both equally frequent
            profile[list(members)] = math.sqrt(profile[members[0]] * profile[members[1]])
    shares = np.linspace(0, 1, 20_001)
    seen = shares * (1 - config.parent_only_rate)
    presence = 1 - (1 - seen) * np.exp(-(config.objects_per_image - 1) * seen)

    def odds_at(scale: float) -> list[tuple[float, tuple[tuple[int, ...], ...], tuple[float, ...]]]:
        label_shares = np.interp(scale * profile, presence, shares)
        return [
            _kind_odds(members, label_shares[list(members)], toss, config.both_labels_rate)
            for members, toss in zip(ranks, coin_tosses, strict=True)
        ]

    scale = _increasing_root(lambda scale: sum(odds[0] for odds in odds_at(scale)) - 1, 0, float(presence[-1]))
    odds = odds_at(scale)
    total = sum(share for share, _, _ in odds)  # 1 up to the bisection
    return [(share / total, sets, probabilities) for share, sets, probabilities in odds]


def _kind_odds(
    ranks: tuple[int, ...], label_shares: np.ndarray, coin_toss: bool, both_labels_rate: float
) -> tuple[float, tuple[tuple[int, ...], ...], tuple[float, ...]]:
    if len(ranks) == 1:
        return float(label_shares[0]), (ranks,), (1.0,)
    first, second = (float(share) for share in label_shares)
    if coin_toss:
        return first + second, (ranks[:1], ranks[1:]), (0.5, 0.5)
    both = min(both_labels_rate, second / first)
    share = (first + second) / (1 + both)
    return share, (ranks, ranks[:1], ranks[1:]), (both, first / share - both, max(0.0, second / share - both))


def _increasing_root(function: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return high
