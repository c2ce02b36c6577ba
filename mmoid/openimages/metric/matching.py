"""Matching: which detections are true positives, by the official Open Images rules.

Detections are matched per image and class. A *key*, ``image * num_classes + label``, names one such pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmoid.openimages.metric.arrays import box_column, float_column, index_column, require_rows
from mmoid.openimages.metric.ground_truth import GroundTruth, KeyedBoxes

# (detection, box) pairs compared at a time: their temporaries stay in the processor's cache.
PAIRS_AT_ONCE = 1 << 16

# Detections matched at a time: bounds the working memory and keeps the sorting linear in their number.
DETECTIONS_AT_ONCE = 1 << 18


@dataclass(frozen=True, eq=False)
class Matches:
    """The verdict on every detection that counts, ordered by image and class, then by descending score.

    Detections that a group absorbed are not listed; each group that was found follows the detections of its image
    and class as a row of its own.

    Attributes:
        image: (M,) int64 image index, by which an image that was matched twice can be told.
        label: (M,) int64 class index.
        score: (M,) float64.
        value: (M,) float64: 0 false positive, 1 true positive, ``group_of_weight`` a group that was found.
        found: (F,) int64 rows of the ground truth that the true positives found; groups are not among them.
    """

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    value: np.ndarray
    found: np.ndarray

    @classmethod
    def concatenate(cls, parts: Sequence[Matches]) -> Matches:
        """Matches of several chunks of images, in the order given. No parts: no matches."""
        integers, floats = np.empty(0, dtype=np.int64), np.empty(0)
        return cls(
            np.concatenate([integers, *(part.image for part in parts)]),
            np.concatenate([integers, *(part.label for part in parts)]),
            np.concatenate([floats, *(part.score for part in parts)]),
            np.concatenate([floats, *(part.value for part in parts)]),
            np.concatenate([integers, *(part.found for part in parts)]),
        )


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
    """Decides true and false positives. No image's result depends on another's: chunks of images may come apart.

    Args:
        ground_truth: Of all images.
        image: (D,) int image indices, in any order.
        label: (D,) int class indices. Ancestors are not added here: whoever submits does that.
        score: (D,).
        box: (D, 4); rows without xmin < xmax and ymin < ymax are dropped, they are no false positives.
        iou_threshold: Least IoU with a single box; also the least intersection over detection area with a group.
        group_of_weight: Value of a group that was found; 0: groups only absorb.
        max_detections: Best-scored detections kept per image and class.

    Raises:
        ValueError: Arrays of unequal length, an index out of range, a NaN score, a setting out of range.
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f'iou_threshold: expects 0 < value <= 1, got {iou_threshold}')
    if max_detections < 1:
        raise ValueError(f'max_detections: expects at least 1, got {max_detections}')
    check_group_of_weight(group_of_weight)
    image = index_column('image', image, ground_truth.num_images)
    label = index_column('label', label, ground_truth.num_classes, len(image))
    score = float_column('score', score, len(image))
    require_rows('score', score, ~np.isnan(score), 'a number')
    box = box_column('box', box, len(image))

    key = image * ground_truth.num_classes + label
    parts = []
    for rows in _image_chunks(image):
        ordered = _drop_and_sort(ground_truth, key[rows], score[rows], box[rows], max_detections)
        parts.append(_match_sorted(ground_truth, *ordered, iou_threshold, group_of_weight))
    return Matches.concatenate(parts)


def check_group_of_weight(group_of_weight: float) -> None:
    """Raises ValueError unless the weight is finite and not negative."""
    if not 0 <= group_of_weight < np.inf:
        raise ValueError(f'group_of_weight: expects a finite value >= 0, got {group_of_weight}')


def _image_chunks(image: np.ndarray) -> Iterator[np.ndarray]:
    """Cuts the rows into chunks of about DETECTIONS_AT_ONCE, ordered by image, never within an image."""
    rows = np.argsort(image, kind='stable')
    ordered = image[rows]
    start = 0
    while start < len(rows):
        last = ordered[min(start + DETECTIONS_AT_ONCE, len(rows)) - 1]
        stop = int(np.searchsorted(ordered, last, side='right'))
        yield rows[start:stop]
        start = stop


def _drop_and_sort(
    ground_truth: GroundTruth, key: np.ndarray, score: np.ndarray, box: np.ndarray, max_detections: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Key, score and box of the detections that count, ordered by key, then by descending score."""
    counts = (box[:, 0] < box[:, 2]) & (box[:, 1] < box[:, 3])
    if ground_truth.verified is not None:
        counts &= _contains(ground_truth.verified, key)
    rows = np.flatnonzero(counts)
    rows = rows[np.lexsort((-score[rows], key[rows]))]
    rows = rows[_rank_in_run(key[rows]) < max_detections]
    return key[rows], score[rows], box[rows]


def _match_sorted(
    ground_truth: GroundTruth,
    key: np.ndarray,
    score: np.ndarray,
    box: np.ndarray,
    iou_threshold: float,
    group_of_weight: float,
) -> Matches:
    """Metric-spec "Per image and class", 3 to 5, on the detections of :func:`_drop_and_sort`."""
    singles, groups = ground_truth.single_boxes, ground_truth.group_boxes
    overlap, claimed = _best_overlap(key, box, singles, over_union=True)
    claims = np.flatnonzero(overlap >= iou_threshold)
    # A detection claims one box only, so a box is free exactly for the best-scored of its claimants.
    single, first = np.unique(claimed[claims], return_index=True)
    value = np.zeros(len(key))
    value[claims[first]] = 1.0

    rest = np.flatnonzero(value == 0)
    overlap, claimed = _best_overlap(key[rest], box[rest], groups, over_union=False)
    absorbed = overlap >= iou_threshold
    group, first = np.unique(claimed[absorbed], return_index=True)
    group_score = score[rest[absorbed]][first]
    scored = (group_score > 0) & (group_of_weight > 0)
    kept = np.ones(len(key), dtype=bool)
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

    (D,) float64, 0 where the key has no box, and (D,) int64, meaningless there.
    """
    start = np.searchsorted(truth.key, key, side='left')
    count = np.searchsorted(truth.key, key, side='right') - start
    best, index = np.zeros(len(key)), np.zeros(len(key), dtype=np.int64)
    comparable = np.flatnonzero(count)
    for rows in _pieces(comparable, count[comparable]):
        size = count[rows]
        offset = np.cumsum(size) - size
        detection = np.repeat(rows, size)
        candidate = np.arange(len(detection)) + np.repeat(start[rows] - offset, size)
        overlap = _overlap(box[detection], truth.box[candidate], over_union)
        best[rows] = np.maximum.reduceat(overlap, offset)
        is_best = overlap == best[detection]
        index[rows] = np.minimum.reduceat(np.where(is_best, candidate, len(truth.key)), offset)
    return best, index


def _pieces(rows: np.ndarray, size: np.ndarray) -> Iterator[np.ndarray]:
    """Cuts rows into pieces of at most PAIRS_AT_ONCE pairs; a row with more than that is a piece of its own."""
    ends = np.cumsum(size)
    start = 0
    while start < len(rows):
        done = ends[start] - size[start]
        stop = max(start + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side='right')))
        yield rows[start:stop]
        start = stop


def _overlap(detection: np.ndarray, truth: np.ndarray, over_union: bool) -> np.ndarray:
    """IoU, or intersection over detection area, of (P, 4) boxes row by row; 0 where that area is 0."""
    width = np.minimum(detection[:, 2], truth[:, 2]) - np.maximum(detection[:, 0], truth[:, 0])
    height = np.minimum(detection[:, 3], truth[:, 3]) - np.maximum(detection[:, 1], truth[:, 1])
    intersection: np.ndarray = np.maximum(width, 0) * np.maximum(height, 0)
    area = _area(detection)
    if over_union:
        area = area + _area(truth) - intersection
    overlap = np.zeros_like(intersection)
    np.divide(intersection, area, out=overlap, where=area > 0)
    return overlap


def _area(box: np.ndarray) -> np.ndarray:
    area: np.ndarray = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    return area


def _contains(ordered: np.ndarray, key: np.ndarray) -> np.ndarray:
    """(K,) bool: which keys occur in a sorted array."""
    if not len(ordered):
        return np.zeros(len(key), dtype=bool)
    place = np.searchsorted(ordered, key)
    found: np.ndarray = ordered[np.minimum(place, len(ordered) - 1)] == key
    return found


def _rank_in_run(ordered: np.ndarray) -> np.ndarray:
    """(K,) int: position of each entry among its equals, in a sorted array."""
    return np.arange(len(ordered)) - np.searchsorted(ordered, ordered, side='left')
