"""Matching: which detections are true positives, by the official Open Images rules.

All arithmetic is float64. Memory is bounded by the rows given, never by images x classes.

Equal scores, whose order the official code leaves open: within an image and class the detection that was given first
comes first; across images the lower image index; the groups found in an image follow its detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmoid.openimages.boxes import box_area, box_iou, has_area, intersection_area
from mmoid.openimages.metric.ground_truth import GroundTruth, KeyedBoxes
from mmoid.openimages.ragged import row_and_position, runs_of_rows

PAIRS_AT_ONCE = 1 << 16
"""(detection, box) pairs compared at a time, so that their temporary arrays stay in the processor's cache."""

DETECTIONS_AT_ONCE = 1 << 18
"""Detections matched at a time. Bounds the working memory."""


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
    overlap, claimed = _best_overlap(key, box, singles, over_union=True)
    claims = np.flatnonzero(overlap >= iou_threshold)
    # A detection claims one box only, so a box goes to the best-scored of its claimants.
    single, first = np.unique(claimed[claims], return_index=True)
    value = np.zeros(len(key))
    value[claims[first]] = 1.0

    rest = np.flatnonzero(value == 0)
    overlap, claimed = _best_overlap(key[rest], box[rest], groups, over_union=False)
    absorbed = overlap >= iou_threshold
    group, first = np.unique(claimed[absorbed], return_index=True)
    group_score = score[rest[absorbed]][first]
    scored = (group_score > 0) & (group_of_weight > 0)
    kept = (value > 0) | ~_contains(ground_truth.not_exhaustive, key)
    kept[rest[absorbed]] = False

    key = np.concatenate([key[kept], groups.key[group[scored]]])
    score = np.concatenate([score[kept], group_score[scored]])
    value = np.concatenate([value[kept], np.full(scored.sum(), float(group_of_weight))])
    order = np.argsort(key, kind='stable')
    image, label = np.divmod(key[order], ground_truth.num_classes)
    return Matches(image, label, score[order], value[order], singles.row[single])


def _best_overlap(
    key: np.ndarray, box: np.ndarray, truth: KeyedBoxes, over_union: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Greatest overlap of each detection with a box of its key, and the index of that box: the first on a tie.

    Returns:
        (D,) float64 IoU, or intersection over detection area; 0 where the key has no box. (D,) int64 indices,
        meaningless where the overlap is 0.
    """
    start = np.searchsorted(truth.key, key, side='left')
    count = np.searchsorted(truth.key, key, side='right') - start
    best, index = np.zeros(len(key)), np.zeros(len(key), dtype=np.int64)
    comparable = np.flatnonzero(count)
    for first, last in runs_of_rows(count[comparable], PAIRS_AT_ONCE):
        rows = comparable[first:last]
        size = count[rows]
        own, position = row_and_position(size)
        detection, candidate = rows[own], start[rows][own] + position
        one, other = box[detection], truth.box[candidate]
        overlap = box_iou(one, other) if over_union else intersection_area(one, other) / box_area(one)
        offset = np.cumsum(size) - size
        best[rows] = np.maximum.reduceat(overlap, offset)
        is_best = overlap == best[detection]
        index[rows] = np.minimum.reduceat(np.where(is_best, candidate, len(truth.key)), offset)
    return best, index


def _contains(ordered: np.ndarray, key: np.ndarray) -> np.ndarray:
    """(K,) bool: which keys occur in a sorted array."""
    if not len(ordered):
        return np.zeros(len(key), dtype=bool)
    place = np.minimum(np.searchsorted(ordered, key), len(ordered) - 1)
    return ordered[place] == key
