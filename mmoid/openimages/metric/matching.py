"""Ground truth of the official Open Images metric, and matching: which detections are true positives.

Images and classes are indices. A *key*, ``image * num_classes + label``, names one image and class, the unit within
which detections are matched to boxes. All arithmetic is float64. Memory is bounded by the rows given, never by
images x classes.

Equal scores, whose order the official code leaves open: within an image and class the detection that was given first
comes first; across images the lower image index; the groups found in an image follow its detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mmoid.openimages.boxes import has_area
from mmoid.openimages.metric.annotations import Annotations
from mmoid.openimages.ragged import runs_of_rows
from mmoid.openimages.statistics.objects import first_of_each, overlapping_pairs
from mmoid.openimages.store.annotation_store import NOT_EXHAUSTIVE

DETECTIONS_AT_ONCE = 1 << 18
"""Detections matched at a time. Bounds the working memory."""


class KeyedBoxes(NamedTuple):
    """Boxes ordered by key; boxes of one key keep their row order, which decides ties.

    ``key`` (K,) int64, ``box`` (K, 4) float64, ``row`` (K,) int64 row of each box in the ground truth.
    """

    key: np.ndarray
    box: np.ndarray
    row: np.ndarray


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Expanded boxes and verified classes. Make it with :meth:`build`."""

    num_images: int  # images evaluated, those without boxes included
    num_classes: int  # C
    image: np.ndarray  # (G,) int64 image index of each box
    label: np.ndarray  # (G,) int64 class index of each box
    box: np.ndarray  # (G, 4) float64 xmin, ymin, xmax, ymax
    is_group_of: np.ndarray  # (G,) bool
    source: np.ndarray  # (G,) int64 row of the annotation that each box is a copy of
    # (V,) int64 sorted unique keys of verified (image, class) pairs; others are ignored. None: all pairs count
    verified: np.ndarray | None
    # (K,) int64 sorted unique keys of the pairs in which some objects may have no box; unmatched detections are ignored
    not_exhaustive: np.ndarray

    @classmethod
    def build(cls, annotations: Annotations, expand: bool = True, verified_only: bool = True) -> GroundTruth:
        """Prepares annotations as the official code does. Nothing is deduplicated.

        Args:
            annotations: Of all images. Boxes without area are fine.
            expand: Copy boxes and positive labels to ancestors, negative labels to descendants. Needs a hierarchy.
            verified_only: Ignore detections of classes that are not verified in their image, and those that match no
                box where some objects may have none.
        """
        num_images, num_classes = len(annotations.image_ids), len(annotations.classes)
        label, source = annotations.label.astype(np.int64), np.arange(len(annotations.label))
        label_class, rows = annotations.label_class.astype(np.int64), np.arange(len(annotations.label_class))
        if expand:
            hierarchy = annotations.hierarchy
            assert hierarchy is not None
            source, label = hierarchy.expand_up(label)
            rows, label_class = hierarchy.expand_labels(label_class, annotations.label_confidence)
        image = annotations.image[source].astype(np.int64)
        verified, not_exhaustive = None, np.empty(0, dtype=np.int64)
        if verified_only:
            label_key = annotations.label_image[rows].astype(np.int64) * num_classes + label_class
            verified = np.unique(np.concatenate([image * num_classes + label, label_key]))
            not_exhaustive = np.unique(label_key[annotations.label_confidence[rows] == NOT_EXHAUSTIVE])
        box, group = annotations.box[source], annotations.is_group_of[source]
        return cls(num_images, num_classes, image, label, box, group, source, verified, not_exhaustive)

    @cached_property
    def single_boxes(self) -> KeyedBoxes:
        """Boxes of single objects."""
        return self._keyed(~self.is_group_of)

    @cached_property
    def group_boxes(self) -> KeyedBoxes:
        """Group-of boxes."""
        return self._keyed(self.is_group_of)

    def _keyed(self, chosen: np.ndarray) -> KeyedBoxes:
        rows = np.flatnonzero(chosen)
        key = self.image[rows] * self.num_classes + self.label[rows]
        order = np.argsort(key, kind='stable')
        return KeyedBoxes(key[order], self.box[rows[order]], rows[order])


@dataclass(frozen=True, eq=False)
class Matches:
    """The verdict on every detection that counts, ordered by image and class, then by descending score.

    Detections that a group absorbed are not listed, nor those without a box in :attr:`GroundTruth.not_exhaustive`. Each
    group that was found follows the detections of its image and class as a row of its own.
    """

    image: np.ndarray  # (M,) int64 image index
    label: np.ndarray  # (M,) int64 class index
    score: np.ndarray  # (M,) float64
    value: np.ndarray  # (M,) float64: 0 false positive, 1 true positive, ``group_of_weight`` a group that was found
    found: np.ndarray  # (F,) int64 rows of the ground truth's single boxes that true positives found

    @classmethod
    def concatenate(cls, parts: Sequence[Matches]) -> Matches:
        """Matches of several chunks of images, in the order given. No parts: no matches."""
        integers, floats = np.empty(0, dtype=np.int64), np.empty(0)
        columns = [(part.image, part.label, part.score, part.value, part.found) for part in parts]
        none = (integers, integers, floats, floats, integers)
        return cls(*(np.concatenate(column) for column in zip(none, *columns)))


def match_detections(
    ground_truth: GroundTruth,
    image: Any,
    label: Any,
    score: Any,
    box: Any,
    iou_threshold: float = 0.5,
    group_of_weight: float = 1.0,
    max_detections: int = 10000,
) -> Matches:
    """Decides true and false positives. Images are independent: they may be matched in chunks.

    Args:
        ground_truth: Of all images.
        image: (D,) int image indices, in any order.
        label: (D,) int class indices. Ancestors are not added here.
        score: (D,).
        box: (D, 4) in the unit of the ground truth. Boxes without area are dropped, they are no false positives.
        iou_threshold: Lowest IoU with a single box, and lowest intersection over detection area with a group.
        group_of_weight: Value of a group that was found; 0: groups only absorb.
        max_detections: Best-scored detections kept per image and class.

    Raises:
        ValueError: An index out of range, a NaN score.
    """
    image = _indices('image', image, ground_truth.num_images)
    label = _indices('label', label, ground_truth.num_classes)
    score = np.asarray(score, dtype=np.float64)
    require_rows('score', score, ~np.isnan(score), 'a number')
    box = np.asarray(box, dtype=np.float64).reshape(-1, 4)

    key = image * ground_truth.num_classes + label
    by_image = np.argsort(image, kind='stable')
    per_image = np.unique(image, return_counts=True)[1]
    stop = np.cumsum(per_image)
    parts = []
    for first, last in runs_of_rows(per_image, DETECTIONS_AT_ONCE):
        rows = by_image[stop[first] - per_image[first] : stop[last - 1]]
        counts = has_area(box[rows])
        if ground_truth.verified is not None:
            counts &= _contains(ground_truth.verified, key[rows])
        rows = rows[counts]
        rows = rows[np.lexsort((-score[rows], key[rows]))]
        rank = np.arange(len(rows)) - np.searchsorted(key[rows], key[rows], side='left')
        rows = rows[rank < max_detections]
        parts.append(_match(ground_truth, key[rows], score[rows], box[rows], iou_threshold, group_of_weight))
    return Matches.concatenate(parts)


def require_rows(name: str, values: np.ndarray, valid: np.ndarray, expected: str) -> None:
    """Raises a ValueError that names the first row that is not valid."""
    if not valid.all():
        row = int(np.argmin(valid))
        raise ValueError(f'{name}[{row}]: expects {expected}, got {values[row]}')


def _indices(name: str, values: Any, bound: int) -> np.ndarray:
    """Values as (N,) int64. Raises a ValueError if one is not in [0, bound)."""
    array = np.asarray(values).astype(np.int64, copy=False)
    require_rows(name, array, (array >= 0) & (array < bound), f'0 <= index < {bound}')
    return array


def _match(
    ground_truth: GroundTruth,
    key: np.ndarray,
    score: np.ndarray,
    box: np.ndarray,
    iou_threshold: float,
    group_of_weight: float,
) -> Matches:
    """The matching of detections that count, ordered by key, then by descending score."""
    singles, groups = ground_truth.single_boxes, ground_truth.group_boxes
    claimant, claimed = _best_boxes(key, box, singles, iou_threshold, over_union=True)
    # A detection claims one box only, so a box goes to the best-scored of its claimants.
    single, first = np.unique(claimed, return_index=True)
    value = np.zeros(len(key))
    value[claimant[first]] = 1.0

    rest = np.flatnonzero(value == 0)
    absorbed, claimed = _best_boxes(key[rest], box[rest], groups, iou_threshold, over_union=False)
    absorbed = rest[absorbed]
    group, first = np.unique(claimed, return_index=True)
    group_score = score[absorbed[first]]
    scored = (group_score > 0) & (group_of_weight > 0)
    kept = (value > 0) | ~_contains(ground_truth.not_exhaustive, key)
    kept[absorbed] = False

    key = np.concatenate([key[kept], groups.key[group[scored]]])
    score = np.concatenate([score[kept], group_score[scored]])
    value = np.concatenate([value[kept], np.full(scored.sum(), float(group_of_weight))])
    order = np.argsort(key, kind='stable')
    image, label = np.divmod(key[order], ground_truth.num_classes)
    return Matches(image, label, score[order], value[order], singles.row[single])


def _best_boxes(
    key: np.ndarray, box: np.ndarray, truth: KeyedBoxes, least: float, over_union: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Of each (K,) detection that overlaps a box of its key by ``least``: its row, ascending, and that of the best box.

    Of equal overlaps, the first box.
    """
    start = np.searchsorted(truth.key, key, side='left')
    count = np.searchsorted(truth.key, key, side='right') - start
    # The boxes of these images only: a set is matched batch by batch, too.
    low, high = start.min(initial=len(truth.key)), (start + count).max(initial=0)
    pairs = overlapping_pairs(box, truth.box[low:high], start - low, count, least, over_union=over_union)
    detection, candidate, overlap = pairs
    best = first_of_each(detection, candidate, -overlap)
    return detection[best], candidate[best] + low


def _contains(ordered: np.ndarray, key: np.ndarray) -> np.ndarray:
    """(K,) bool: which keys occur in a sorted array. np.isin would read all of it, for each image."""
    place = np.searchsorted(ordered, key)
    return ordered.take(place, mode='clip') == key if len(ordered) else np.zeros(len(key), dtype=bool)
