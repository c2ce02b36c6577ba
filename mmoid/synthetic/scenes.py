"""What is in each synthetic image, and what the annotators write about it.

The annotations have the faults of the real ones: several labels on one object, labels picked at random, parent classes
only, group-of boxes, classes that were not verified. Boxes and labels are not expanded to ancestors, as in the
official files. Lengths are pixels; pixel (0, 0) covers [0, 1] x [0, 1], y points down.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from mmoid.openimages.boxes import box_area, intersection_area
from mmoid.synthetic.shapes import COLOURS, SHAPES, Placement
from mmoid.synthetic.world import Kind, World

SPLITS = ('train', 'validation')
_PLACEMENT_TRIES = 40
_MIN_VISIBLE = 0.75  # of an object's box is inside the image
_DIAMETERS = (16.0, 70.0)  # in an image with a longer side of 160 px
_GROUP_DIAMETERS = (12.0, 18.0)  # of a cluster's members
# How far a second annotator's edge is off: in pixels, and as a part of the side, which keeps the IoU above 0.92.
_JITTER_PIXELS = 1.0
_JITTER_PART = 0.02


@dataclass(frozen=True)
class SceneObject:
    """One object, or a tight cluster of objects of the same look under one IsGroupOf box."""

    kind: Kind
    placements: tuple[Placement, ...]  # several for a cluster
    colour: tuple[int, int, int]  # RGB, under this object's light
    box: tuple[float, float, float, float]  # xmin, ymin, xmax, ymax; tight around the part inside the image
    labels: tuple[int, ...]  # leaf classes or one ancestor, before unverified classes are dropped

    @property
    def is_group(self) -> bool:
        return len(self.placements) > 1


@dataclass(frozen=True)
class Scene:
    """An image before it is drawn, with its annotations."""

    image_id: str
    size: tuple[int, int]  # width and height
    pixel_seed: tuple[int, ...]
    objects: tuple[SceneObject, ...]  # later ones are on top
    boxes: tuple[tuple[int, tuple[float, ...], bool], ...]  # class; xmin, ymin, xmax, ymax in [0, 1]; IsGroupOf
    present: tuple[int, ...]  # classes verified to be in the image
    absent: tuple[int, ...]  # classes verified not to be


def compose_image(world: World, split: str, index: int) -> Scene:
    """Composes image number ``index`` of a split; the same arguments give the same scene."""
    config = world.config
    seed = (config.seed, SPLITS.index(split), index)
    rng = np.random.default_rng((*seed, 0))
    image_id = hashlib.blake2b(f'{config.seed}/{split}/{index}'.encode(), digest_size=8).hexdigest()
    longer, shorter = config.image_size, round(config.image_size * rng.uniform(0.65, 1.0))
    size = (longer, shorter) if rng.random() < 0.5 else (shorter, longer)

    objects: list[SceneObject] = []
    if rng.random() >= config.empty_rate:
        for _ in range(1 + int(rng.poisson(config.objects_per_image - 1))):
            objects += _compose_object(rng, world, size, objects)

    labels = sorted({label for item in objects for label in item.labels})
    verified = [label for label in labels if rng.random() >= config.unverified_rate]
    boxes = []
    for item in objects:
        for position, label in enumerate(item.labels):
            box = np.array(item.box)
            if position > 0 and rng.random() < 0.5:  # a second annotator's box, otherwise a copy of the first one's
                sides = np.tile(box[2:] - box[:2], 2)
                box += rng.uniform(-1, 1, size=4) * np.minimum(_JITTER_PIXELS, _JITTER_PART * sides)
            if label in verified:
                boxes.append((label, tuple(np.clip(box / np.tile(size, 2), 0, 1).tolist()), item.is_group))

    absent_count = int(rng.poisson(config.negatives_per_image))
    if config.negatives_per_image > 0 and not verified:
        absent_count = max(absent_count, 1)  # the official files name every image, so there is at least one row
    visible = {label for item in objects for label in item.kind.labels}
    visible |= {int(above) for label in visible for above in world.hierarchy.ancestors(label)}
    absent = rng.permutation([label for label in range(len(world.names)) if label not in visible])[:absent_count]
    return Scene(
        image_id, size, (*seed, 1), tuple(objects), tuple(boxes), tuple(verified), tuple(sorted(absent.tolist()))
    )


def _compose_object(
    rng: np.random.Generator, world: World, size: tuple[int, int], others: Sequence[SceneObject]
) -> list[SceneObject]:
    """Draws look, labels and place of one object; none where the image has no room left."""
    config = world.config
    kind = world.kinds[rng.choice(len(world.kinds), p=[kind.share for kind in world.kinds])]
    labels = kind.label_sets[rng.choice(len(kind.label_sets), p=kind.probabilities)]
    if rng.random() < config.parent_only_rate:
        ancestors = sorted({int(above) for label in labels for above in world.hierarchy.ancestors(label)})
        labels = (ancestors[int(rng.integers(len(ancestors)))],)
    is_group = rng.random() < config.group_of_rate
    light = rng.uniform(0.7, 1.1) * rng.uniform(0.94, 1.06, size=3)
    red, green, blue = np.minimum(255, light * COLOURS[kind.colour]).astype(int).tolist()

    zoom = config.image_size / 160
    taken = np.array([other.box for other in others]).reshape(-1, 4)
    for _ in range(_PLACEMENT_TRIES):
        x, y = rng.uniform((0, 0), size).tolist()
        if is_group:
            placements = _cluster(rng, x, y, zoom * rng.uniform(*_GROUP_DIAMETERS) / 2)
        else:
            radius = zoom * math.exp(rng.uniform(*np.log(_DIAMETERS))) / 2
            placements = (Placement(x, y, radius, rng.uniform(0, 2 * math.pi)),)
        points = np.concatenate([placement.place(SHAPES[kind.shape].outline) for placement in placements])
        whole = np.concatenate([points.min(axis=0), points.max(axis=0)])
        box = whole
        if (whole[:2] < 0).any() or (whole[2:] > size).any():
            if is_group:
                continue
            # Cutting the box instead would be too loose: the widest part may be the one outside.
            box = np.array(shapely.clip_by_rect(shapely.Polygon(points), 0, 0, *size).bounds)  # NaN of an empty shape
        allowed = config.max_overlap * np.minimum(box_area(box), box_area(taken))
        if box_area(box) >= _MIN_VISIBLE * box_area(whole) and (intersection_area(box, taken) <= allowed).all():
            return [SceneObject(kind, placements, (red, green, blue), tuple(box.tolist()), labels)]
    return []


def _cluster(rng: np.random.Generator, x: float, y: float, radius: float) -> tuple[Placement, ...]:
    """5 to 9 members in a jittered, rotated grid; they just about touch."""
    count = int(rng.integers(5, 10))
    columns = math.ceil(math.sqrt(count))
    cells = np.stack(np.divmod(np.arange(count), columns), axis=1)[:, ::-1].astype(float)
    cells += rng.uniform(-0.12, 0.12, size=cells.shape)
    cells -= cells.mean(axis=0)
    centres = Placement(x, y, radius, rng.uniform(0, 2 * math.pi)).place(cells * 1.9)
    angles = rng.uniform(0, 2 * math.pi, size=count).tolist()
    return tuple(Placement(x, y, radius, angle) for (x, y), angle in zip(centres.tolist(), angles))
