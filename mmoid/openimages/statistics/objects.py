"""Boxes that lie on one object, and the labels they give it.

Open Images gives one box row per label: an object that is a Wheel and a Tire has two rows with (nearly) the same box.
Rows of one image whose boxes overlap with IoU >= a threshold are taken as one object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from mmoid.openimages.ragged import row_and_position

PAIRS_AT_ONCE = 1 << 18
"""Bounds the memory of :func:`overlapping_pairs`, about 100 bytes a pair; more of them are slower, not faster."""

SLACK = 1e-9
"""Of the test by area that comes before the exact one: rounding must not lose a pair."""


@dataclass(frozen=True)
class BoxPairs:
    """Pairs of boxes of one image that overlap.

    Attributes:
        first: (P,) int64 row of the box that comes first.
        second: (P,) int64 row of the other, above ``first``.
        iou: (P,) float64, all of them ``least_iou`` or more.
        least_iou: What they were looked for with.
    """

    first: np.ndarray
    second: np.ndarray
    iou: np.ndarray
    least_iou: float

    def at(self, iou_threshold: float) -> BoxPairs:
        """Those with IoU >= ``iou_threshold``: pairs are sought once, at the lowest threshold that is wanted.

        Raises:
            ValueError: A threshold below ``least_iou``; not all of its pairs are here.
        """
        if not self.least_iou <= iou_threshold <= 1:
            raise ValueError(f'iou_threshold must be in [{self.least_iou:g}, 1], got {iou_threshold}')
        same = self.iou >= iou_threshold
        return BoxPairs(self.first[same], self.second[same], self.iou[same], iou_threshold)


@dataclass(frozen=True)
class LabelSets:
    """The labels of every object. Nearly all objects are one box, hence one label: those are only counted.

    Attributes:
        alone: (C,) int64, objects of a single box, by its class.
        shared: (G, C) int64 csr matrix of the objects of several boxes: 1 where one carries label i.
    """

    alone: np.ndarray
    shared: csr_matrix


def single_object_pairs(
    box: np.ndarray, box_stop: np.ndarray, is_group_of: np.ndarray, least_iou: float
) -> tuple[np.ndarray, BoxPairs]:
    """Pairs among the boxes of single objects: a group-of box is not one object.

    Args:
        box: (B, 4) xmin, ymin, xmax, ymax, image after image.
        box_stop: (N,) end of each image's rows.
        is_group_of: (B,) 1, 0 or -1 (unknown, taken as a single object).
        least_iou: In (0, 1].

    Returns:
        (B,) bool, which boxes are of single objects, and their pairs.
    """
    single: np.ndarray = is_group_of != 1
    pairs = box_pairs(box, box_stop, least_iou)
    # Dropping pairs afterwards needs no copy of the boxes, which are mapped from a file.
    kept = single[pairs.first] & single[pairs.second]
    return single, BoxPairs(pairs.first[kept], pairs.second[kept], pairs.iou[kept], least_iou)


def label_sets(single: np.ndarray, label: np.ndarray, pairs: BoxPairs, num_classes: int) -> LabelSets:
    """Unites the labels of the boxes of each object; an object is a connected component of the pairs.

    Args:
        single: (B,) bool, boxes that count.
        label: (B,) class indices.
        pairs: Of boxes that count.
        num_classes: C.
    """
    # Only boxes of some pair need grouping, one in fifty or so.
    paired, ends = np.unique(np.concatenate([pairs.first, pairs.second]), return_inverse=True)
    group = group_boxes(len(paired), ends[: len(pairs.first)], ends[len(pairs.first) :])
    alone = single.copy()
    alone[paired] = False
    shape = (int(group.max(initial=-1)) + 1, num_classes)
    shared = coo_matrix((np.ones(len(paired), dtype=np.int64), (group, label[paired])), shape).tocsr()
    shared.data[:] = 1  # a label that several boxes of the object give was counted several times
    return LabelSets(np.bincount(label[alone], minlength=num_classes), shared)


def box_pairs(box: np.ndarray, box_stop: np.ndarray, least_iou: float) -> BoxPairs:
    """All pairs of boxes of one image with IoU >= ``least_iou``; arguments as of :func:`same_object_pairs`."""
    row = np.arange(len(box))
    later = np.repeat(box_stop, np.diff(box_stop, prepend=0)) - row - 1  # later rows of the same image
    return BoxPairs(*overlapping_pairs(box, box, row + 1, later, least_iou), least_iou)


def same_object_pairs(box: np.ndarray, box_stop: np.ndarray, iou_threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Finds all pairs of boxes of one image with IoU >= ``iou_threshold``.

    Args:
        box: (B, 4) xmin, ymin, xmax, ymax, any unit, image after image.
        box_stop: (N,) end of each image's rows.
        iou_threshold: In (0, 1].

    Returns:
        Two (P,) int64 arrays of row indices, first < second.
    """
    pairs = box_pairs(box, box_stop, iou_threshold)
    return pairs.first, pairs.second


def overlapping_pairs(
    a: np.ndarray, b: np.ndarray, start: np.ndarray, count: np.ndarray, iou_threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Holds each box of ``a`` against a run of boxes of ``b``, within bounded memory.

    Args:
        a: (A, 4) xmin, ymin, xmax, ymax.
        b: (B, 4), in the same unit.
        start: (A,) first row of the run.
        count: (A,) rows in the run.
        iou_threshold: In (0, 1].

    Returns:
        Rows of ``a``, rows of ``b``, both (P,) int64, and their IoU (P,) float64, ``iou_threshold`` or more; ordered
        by the rows of ``a``, then of ``b``.
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f'iou_threshold must be in (0, 1], got {iou_threshold}')
    area_a = _area(a)
    area_b = area_a if b is a else _area(b)
    none = np.empty(0, dtype=np.int64)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [(none, none, np.empty(0))]
    for low, high in _chunks(count):
        first, position = row_and_position(count[low:high])
        first += low
        second = start[first] + position
        # IoU is at most smaller area / larger area: two numbers a pair rule most pairs out before all eight are read.
        one, other = area_a[first], area_b[second]
        alike = np.minimum(one, other) >= (iou_threshold - SLACK) * np.maximum(one, other)
        first, second = first[alike], second[alike]
        iou = paired_iou(a[first], b[second])
        same = iou >= iou_threshold
        found.append((first[same], second[same], iou[same]))
    rows_a, rows_b, iou = (np.concatenate(column) for column in zip(*found))
    return rows_a, rows_b, iou


def group_boxes(num_boxes: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Object index of every box: the connected components of the pairs.

    Args:
        num_boxes: B.
        first: (P,) row indices, as :func:`same_object_pairs` gives them.
        second: (P,) row indices.

    Returns:
        (B,) integers from 0, without gaps.
    """
    graph = coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(num_boxes, num_boxes))
    return connected_components(graph, directed=False)[1]


def paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of row k of ``a`` with row k of ``b``, both (P, 4); 0 where both boxes are empty."""
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    union = _area(a) + _area(b) - intersection
    return np.divide(intersection, union, out=np.zeros(len(union)), where=union > 0)


def _area(box: np.ndarray) -> np.ndarray:
    area: np.ndarray = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    return area


def _chunks(count: np.ndarray) -> Iterator[tuple[int, int]]:
    """Cuts rows into runs of at most PAIRS_AT_ONCE pairs; a row with more than that is a run of its own."""
    done = np.cumsum(count)
    low = 0
    while low < len(count):
        budget = PAIRS_AT_ONCE + (done[low - 1] if low else 0)
        high = max(low + 1, int(np.searchsorted(done, budget, side='right')))
        yield low, high
        low = high
