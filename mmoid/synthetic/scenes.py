"""A synthetic data set in the official Open Images formats: what is in each image, and what the annotators write.

Every image has a small truth (objects with a look and a place) and annotations with the faults of the real ones:
several labels on one object, coin-toss labels, parent classes only, group-of boxes, unverified classes. Boxes and
labels are not expanded to ancestors, as in the official files. The classes come from ``synthetic_world.py``, pixels
from ``synthetic_drawing.py``, files from ``synthetic_folder.py``. Nothing here needs Pillow.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmoid.synthetic.shapes import Box, Placement, area, common_area, outline, placed, rotated, visible_box, whole_box
from mmoid.synthetic.world import COLOURS, Look, World, WorldConfig, build_world

__all__ = ['BoxRow', 'LabelRow', 'Scene', 'SceneObject', 'World', 'WorldConfig', 'build_world', 'compose_image']

SPLITS = ('train', 'validation')
GROUP_SIZES = (5, 9)
_PLACEMENT_TRIES = 40
_VISIBLE_PART = 0.75  # of an object's box lies inside the image
# For an image with a longer side of 160 px; grows with the image.
_REFERENCE_SIZE = 160
_DIAMETERS = (16.0, 70.0)
_GROUP_DIAMETERS = (12.0, 18.0)
# A second label's box: per edge, in pixels and relative to the side. The latter keeps the IoU above 0.92.
_JITTER_PIXELS = 1.0
_JITTER_PART = 0.02

Size = tuple[int, int]  # width, height in pixels


class BoxRow(NamedTuple):
    """A row of ``*-detection-bbox.csv``; coordinates in [0, 1], rounded to 6 decimals as in the file."""

    image_id: str
    label_name: str
    x_min: float
    x_max: float
    y_min: float
    y_max: float
    is_group_of: int


class LabelRow(NamedTuple):
    """A row of ``*-detection-human-imagelabels.csv``; confidence 1 = present, 0 = verified to be absent."""

    image_id: str
    label_name: str
    confidence: int


@dataclass(frozen=True)
class SceneObject:
    """One object, or one tight cluster of objects of the same look.

    Attributes:
        look: Shape, colour and pattern.
        placements: One, or several for a cluster.
        paint: RGB of the colour under this object's light.
        box: Tight around the part inside the image, pixels.
        true_labels: Leaf classes (indices) that it really is.
        visible_labels: Leaf classes that stand for the look; for a coin toss both, though one of them is true.
        labels: What the annotator would write: leaf labels or one ancestor, before unverified classes are dropped.
    """

    look: Look
    placements: tuple[Placement, ...]
    paint: tuple[int, int, int]
    box: Box
    true_labels: tuple[int, ...]
    visible_labels: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def is_group(self) -> bool:
        """Whether one IsGroupOf box stands for all placements."""
        return len(self.placements) > 1


@dataclass(frozen=True)
class Scene:
    """An image before it is drawn. Later objects lie on top.

    Attributes:
        image_id: 16 hex digits.
        split: ``'train'`` or ``'validation'``.
        width: Pixels.
        height: Pixels.
        objects: What is to be seen.
        unverified: Class indices that are present and would have been labelled, but are not annotated here.
        boxes: Annotation rows.
        image_labels: Image-level label rows.
        pixel_seed: Seed of background, clutter and noise.
    """

    image_id: str
    split: str
    width: int
    height: int
    objects: tuple[SceneObject, ...]
    unverified: frozenset[int]
    boxes: tuple[BoxRow, ...]
    image_labels: tuple[LabelRow, ...]
    pixel_seed: tuple[int, ...]


def compose_image(world: World, split: str, index: int) -> Scene:
    """Composes one image; a pure function of the config, the split and the index.

    Args:
        world: The classes.
        split: ``'train'`` or ``'validation'``.
        index: Number of the image in its split, from 0.

    Raises:
        ValueError: An unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f'split: must be one of {SPLITS}, got {split!r}')
    config = world.config
    seed = (config.seed, SPLITS.index(split), index)
    rng = np.random.default_rng((*seed, 0))
    image_id = hashlib.blake2b(f'{config.seed}/{split}/{index}'.encode(), digest_size=8).hexdigest()
    longer, shorter = config.image_size, round(config.image_size * rng.uniform(0.65, 1.0))
    size = (longer, shorter) if rng.random() < 0.5 else (shorter, longer)

    is_empty = rng.random() < config.empty_rate
    count = 0 if is_empty else 1 + int(rng.poisson(config.objects_per_image - 1))
    objects: list[SceneObject] = []
    for _ in range(count):
        new = _compose_object(rng, world, size, [other.box for other in objects])
        if new is not None:
            objects.append(new)

    given = sorted({label for item in objects for label in item.labels})
    unverified = frozenset(label for label in given if rng.random() < config.unverified_rate)
    boxes = tuple(row for item in objects for row in _box_rows(rng, world, image_id, item, unverified, size))
    image_labels = [LabelRow(image_id, world.label_names[label], 1) for label in given if label not in unverified]
    # The official files name every image, so there is at least one row.
    for label in _draw_negatives(rng, world, objects, at_least=0 if image_labels else 1):
        image_labels.append(LabelRow(image_id, world.label_names[label], 0))
    return Scene(image_id, split, *size, tuple(objects), unverified, boxes, tuple(image_labels), pixel_seed=(*seed, 1))


def _compose_object(rng: np.random.Generator, world: World, size: Size, taken: Sequence[Box]) -> SceneObject | None:
    """Draws look, labels and place; None where the image has no room left."""
    config = world.config
    kind = world.kinds[_pick(rng, [kind.share for kind in world.kinds])]
    labels = kind.label_sets[_pick(rng, kind.probabilities)]
    true_labels = labels if kind.coin_toss else kind.labels
    if rng.random() < config.parent_only_rate:
        ancestors = sorted({int(above) for label in labels for above in world.hierarchy.ancestors(label)})
        labels = (ancestors[int(rng.integers(len(ancestors)))],)
    is_group = rng.random() < config.group_of_rate
    light = rng.uniform(0.7, 1.1) * rng.uniform(0.94, 1.06, size=3)
    red, green, blue = np.minimum(255, light * COLOURS[kind.look.colour]).astype(int).tolist()
    found = _find_place(rng, config, kind.look.shape, is_group, size, taken)
    if found is None:
        return None
    placements, box = found
    return SceneObject(kind.look, placements, (red, green, blue), box, true_labels, kind.labels, labels)


def _pick(rng: np.random.Generator, probabilities: Sequence[float]) -> int:
    return min(int(np.searchsorted(np.cumsum(probabilities), rng.random(), side='right')), len(probabilities) - 1)


def _find_place(
    rng: np.random.Generator, config: WorldConfig, shape: str, is_group: bool, size: Size, taken: Sequence[Box]
) -> tuple[tuple[Placement, ...], Box] | None:
    """Tries random places until one is well inside the image and covers no other object too much."""
    zoom = config.image_size / _REFERENCE_SIZE
    for _ in range(_PLACEMENT_TRIES):
        x, y = rng.uniform((0, 0), size).tolist()
        if is_group:
            placements = _cluster(rng, x, y, zoom * rng.uniform(*_GROUP_DIAMETERS) / 2)
        else:
            radius = zoom * math.exp(rng.uniform(*np.log(_DIAMETERS))) / 2
            placements = (Placement(x, y, radius, rng.uniform(0, 2 * math.pi)),)
        points = np.concatenate([placed(outline(shape), placement) for placement in placements])
        box = whole = whole_box(points)
        if whole[0] < 0 or whole[1] < 0 or whole[2] > size[0] or whole[3] > size[1]:
            if is_group:
                continue  # all members of a cluster are to be seen
            box = visible_box(points, *size)
            if area(box) < _VISIBLE_PART * area(whole):
                continue
        if all(common_area(box, other) <= config.max_overlap * min(area(box), area(other)) for other in taken):
            return placements, box
    return None


def _cluster(rng: np.random.Generator, x: float, y: float, radius: float) -> tuple[Placement, ...]:
    """A jittered, rotated grid whose members just about touch."""
    count = int(rng.integers(GROUP_SIZES[0], GROUP_SIZES[1] + 1))
    columns = math.ceil(math.sqrt(count))
    cells = np.stack(np.divmod(np.arange(count), columns), axis=1)[:, ::-1].astype(float)
    cells += rng.uniform(-0.12, 0.12, size=cells.shape)
    cells -= cells.mean(axis=0)
    centres = rotated(cells * 1.9 * radius, rng.uniform(0, 2 * math.pi)) + (x, y)
    angles = rng.uniform(0, 2 * math.pi, size=count).tolist()
    return tuple(Placement(x, y, radius, angle) for (x, y), angle in zip(centres.tolist(), angles, strict=True))


def _box_rows(
    rng: np.random.Generator, world: World, image_id: str, item: SceneObject, unverified: frozenset[int], size: Size
) -> list[BoxRow]:
    """One row per label; a second label repeats the box, half of the time as a second annotator would draw it."""
    rows = []
    for position, label in enumerate(item.labels):
        box = np.array(item.box)
        if position > 0 and rng.random() < 0.5:
            sides = np.tile(box[2:] - box[:2], 2)
            box += rng.uniform(-1, 1, size=4) * np.minimum(_JITTER_PIXELS, _JITTER_PART * sides)
        x_min, y_min, x_max, y_max = np.round(np.clip(box / np.tile(size, 2), 0, 1), 6).tolist()
        if label not in unverified:
            name = world.label_names[label]
            rows.append(BoxRow(image_id, name, x_min, x_max, y_min, y_max, int(item.is_group)))
    return rows


def _draw_negatives(rng: np.random.Generator, world: World, objects: Sequence[SceneObject], at_least: int) -> list[int]:
    """Classes verified to be absent: neither a label of a visible look nor an ancestor of one."""
    config = world.config
    count = int(rng.poisson(config.negatives_per_image))
    if config.negatives_per_image > 0:
        count = max(count, at_least)
    visible = {label for item in objects for label in item.visible_labels}
    visible |= {int(above) for label in visible for above in world.hierarchy.ancestors(label)}
    absent = [label for label in range(len(world.label_names)) if label not in visible]
    return sorted(rng.permutation(absent)[:count].tolist())
