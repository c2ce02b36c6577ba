"""Statistics of a store: imbalance, several labels per object, missing labels (Sec. 3 of the paper, Fig. 2 and 3)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmoid.openimages.boxes import box_area
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.statistics.concurrent_rates import OverlapLevel, count_by_threshold
from mmoid.openimages.statistics.objects import LabelSets
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.progress import Progress, no_progress

SMALLEST_AREA = 1e-6
"""Lower end of the area histogram, as a share of the image: about one pixel. Smaller boxes are in the first bin."""

BINS_PER_DECADE = 8
COCO_SMALL, COCO_LARGE = 32**2, 96**2
"""Square pixels: below the first a box is small, from the second on large."""


@dataclass(frozen=True)
class Imbalance:
    """How often each class occurs (Fig. 2).

    Attributes:
        boxes: (C,) int64 boxes, as annotated.
        images: (C,) int64 images that hold such a box.
        expanded_images: (C,) int64 images that hold a box of the class or a descendant.
    """

    boxes: np.ndarray
    images: np.ndarray
    expanded_images: np.ndarray


@dataclass(frozen=True)
class LeafAbsence:
    """Objects of parent classes without a finer label (Fig. 3b).

    An object belongs to a class if it has the label of the class or of a descendant. Expanding the annotations by the
    hierarchy does not change the figures.

    Attributes:
        label: (P,) int64, the classes with descendants.
        objects: (P,) int64, the objects of each.
        without_leaf: (P,) int64, those with the label itself and no label of a descendant.
    """

    label: np.ndarray
    objects: np.ndarray
    without_leaf: np.ndarray

    @property
    def share(self) -> np.ndarray:
        """(P,) float64 in [0, 1]: ``without_leaf / objects``; 0 for classes without objects."""
        share: np.ndarray = self.without_leaf / np.maximum(self.objects, 1)
        return share


@dataclass(frozen=True)
class LabelSetSizes:
    """Objects by their number of labels.

    Attributes:
        annotated: (K,) int64, entry k: objects with k labels, as annotated.
        expanded: (K,) int64, the same after adding ancestors.
    """

    annotated: np.ndarray
    expanded: np.ndarray


@dataclass(frozen=True)
class GroupOf:
    """Boxes by ``IsGroupOf`` (more than five instances that touch each other), three (C,) int64 columns."""

    single: np.ndarray
    group: np.ndarray
    unknown: np.ndarray

    @property
    def share(self) -> np.ndarray:
        """(C,) float64 in [0, 1]: group-of boxes among those with a known flag; 0 without any."""
        share: np.ndarray = self.group / np.maximum(self.single + self.group, 1)
        return share


@dataclass(frozen=True)
class BoxSizes:
    """Sizes of the boxes, without group-of boxes.

    Attributes:
        edges: (K + 1,) float64, areas as shares of the image, in equal steps of the logarithm up to 1.
        boxes: (K,) int64 boxes between two edges.
        coco: small, medium and large boxes by COCO's limits, 32 x 32 and 96 x 96 pixels.
    """

    edges: np.ndarray
    boxes: np.ndarray
    coco: tuple[int, int, int]


@dataclass(frozen=True)
class Statistics:
    """All statistics of the report.

    Attributes:
        level: Objects at the IoU threshold in use.
        compared: Objects at other thresholds.
        boxes_per_image: (K,) int64, entry k: images with k boxes, group-of boxes included.
    """

    level: OverlapLevel
    compared: Sequence[OverlapLevel]
    imbalance: Imbalance
    leaf_absence: LeafAbsence
    label_set_sizes: LabelSetSizes
    group_of: GroupOf
    box_sizes: BoxSizes
    boxes_per_image: np.ndarray


def measure(
    store: AnnotationStore,
    iou_threshold: float = 0.9,
    compared: Sequence[float] = (0.9, 0.8, 0.7, 0.5),
    progress: Progress = no_progress,
) -> Statistics:
    """All statistics of a store.

    Args:
        store: The annotations.
        iou_threshold: Boxes of one image with at least this IoU are on one object; in (0, 1].
        compared: Further thresholds, for the count of overlapping boxes only.
        progress: Callback, see :data:`Progress`.
    """
    progress('comparing boxes', 0, 1)
    level, *others = count_by_threshold(store, [iou_threshold, *compared])
    progress('comparing boxes', 1, 1)
    progress('counting', 0, 1)
    statistics = Statistics(
        level=level,
        compared=others,
        imbalance=Imbalance(store.class_box_counts, store.class_image_counts(False), store.class_image_counts(True)),
        leaf_absence=leaf_absence(level.label_sets, store.hierarchy),
        label_set_sizes=label_set_sizes(level.label_sets, store.hierarchy),
        group_of=group_of(store),
        box_sizes=box_sizes(store),
        boxes_per_image=np.bincount(np.diff(store.box_stop, prepend=0), minlength=1),
    )
    progress('counting', 1, 1)
    return statistics


def head_to_tail(counts: np.ndarray) -> float:
    """Count of the most frequent class over that of the rarest class with any; 1 if all (C,) counts are 0."""
    present = counts[counts > 0]
    return float(present.max() / present.min()) if len(present) else 1.0


def leaf_absence(sets: LabelSets, hierarchy: ClassHierarchy) -> LeafAbsence:
    """Objects of each parent class, and those without a label of a descendant."""
    parents = np.flatnonzero(~hierarchy.is_leaf)
    descends = hierarchy.ancestor_matrix[:, parents].astype(np.int64)  # [j, p]: j is a descendant of parent p
    own = sets.shared[:, parents].toarray() > 0  # (G, P): objects of several boxes
    finer = np.asarray(sets.shared @ descends) > 0
    # An object of one box has one label: it is of the parent by that label or by a finer one.
    alone = sets.alone[parents]
    objects = alone + sets.alone @ descends + (own | finer).sum(axis=0)
    return LeafAbsence(parents, objects, alone + (own & ~finer).sum(axis=0))


def label_set_sizes(sets: LabelSets, hierarchy: ClassHierarchy) -> LabelSetSizes:
    """Objects by the number of different labels, before and after ancestors are added."""
    annotated = np.bincount(np.diff(sets.shared.indptr), minlength=2)
    annotated[1] += sets.alone.sum()
    objects, labels = sets.shared.nonzero()
    rows, labels = hierarchy.expand_up(labels)
    keys = np.unique(objects[rows].astype(np.int64) * hierarchy.num_classes + labels)
    shared = np.bincount(np.bincount(keys // hierarchy.num_classes, minlength=sets.shared.shape[0]))
    size_alone = 1 + hierarchy.ancestor_matrix.sum(axis=1)
    expanded = np.zeros(max(len(shared), int(size_alone.max(initial=1)) + 1), dtype=np.int64)
    expanded[: len(shared)] = shared
    np.add.at(expanded, size_alone, sets.alone)
    return LabelSetSizes(annotated, np.trim_zeros(expanded, 'b'))


def group_of(store: AnnotationStore) -> GroupOf:
    """Boxes of each class by their group-of flag."""
    flags, classes = store.is_group_of, store.num_classes
    single, group, unknown = (np.bincount(store.box_label[flags == v], minlength=classes) for v in (0, 1, -1))
    return GroupOf(single, group, unknown)


def box_sizes(store: AnnotationStore) -> BoxSizes:
    """Areas of the boxes that are not known to be group-of, as shares of the image and in pixels."""
    area = box_area(store.box)
    kept = store.is_group_of != 1
    pixels = area * np.repeat(store.width.astype(np.int64) * store.height, np.diff(store.box_stop, prepend=0))
    small, not_large = int((pixels[kept] < COCO_SMALL).sum()), int((pixels[kept] < COCO_LARGE).sum())
    decades = round(-np.log10(SMALLEST_AREA))
    exponent = np.log10(np.clip(area[kept], SMALLEST_AREA, 1))
    boxes, exponents = np.histogram(exponent, bins=decades * BINS_PER_DECADE, range=(-decades, 0))
    return BoxSizes(10.0**exponents, boxes, (small, not_large - small, int(kept.sum()) - not_large))


def coco_image_counts(path: str | Path) -> np.ndarray:
    """(K,) int64: images of each category that has a box, from a COCO ``instances_*.json``; to show beside Fig. 2.

    Raises:
        AnnotationError: No such file, or not of that format.
    """
    try:
        annotations = json.loads(Path(path).read_bytes())['annotations']
        pairs = {(entry['category_id'], entry['image_id']) for entry in annotations}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnnotationError(f'{path}: cannot be read as COCO instances ({error!r})') from error
    return np.unique(np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)[:, 0], return_counts=True)[1]
