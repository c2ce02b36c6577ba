"""Objects: which boxes lie on one object, and which labels it has.

Open Images has one box per label: an object that is a Wheel and a Tire has two nearly equal boxes. An object is a
connected component of the boxes of one image; boxes with IoU >= a threshold (0.9 by default) are connected. Group-of
boxes are not objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from mmoid.openimages.boxes import box_area, box_iou
from mmoid.openimages.ragged import row_and_position, runs_of_rows
from mmoid.utils.progress import Progress, no_progress

PAIRS_AT_ONCE = 1 << 18  # bounds the memory, about 100 bytes per pair; larger values are slower
SLACK = 1e-9  # tolerance of the test by area that precedes the exact test, so that rounding loses no pair


@dataclass(frozen=True)
class BoxPairs:
    """Pairs of overlapping boxes of one image."""

    first: np.ndarray  # (P,) int64 row of the first box
    second: np.ndarray  # (P,) int64 row of the second box, greater than ``first``
    iou: np.ndarray  # (P,) float64, at least ``least_iou``
    least_iou: float

    def at(self, iou_threshold: float) -> BoxPairs:
        """The pairs with IoU >= ``iou_threshold``, which must be in [``least_iou``, 1] (ValueError)."""
        if not self.least_iou <= iou_threshold <= 1:
            raise ValueError(f'iou_threshold must be in [{self.least_iou:g}, 1], got {iou_threshold}')
        kept = self.iou >= iou_threshold
        return BoxPairs(self.first[kept], self.second[kept], self.iou[kept], iou_threshold)


@dataclass(frozen=True)
class LabelSets:
    """The labels of all objects. Most objects have one box, so only their counts are kept."""

    alone: np.ndarray  # (C,) int64, number of objects with a single box, by class
    shared: csr_matrix  # (G, C) int64, the objects with several boxes: 1 where an object has the label


def object_of_box(
    box: np.ndarray, box_stop: np.ndarray, is_group_of: np.ndarray, iou_threshold: float = 0.9
) -> np.ndarray:
    """(B,) int64 object index of each box, -1 for a group-of box; arguments of :func:`single_object_pairs`."""
    single, pairs = single_object_pairs(box, box_stop, is_group_of, iou_threshold)
    return np.where(single, _components(len(box), pairs.first, pairs.second).astype(np.int64), -1)


def single_object_pairs(
    box: np.ndarray,
    box_stop: np.ndarray,
    is_group_of: np.ndarray,
    least_iou: float,
    progress: Progress = no_progress,
) -> tuple[np.ndarray, BoxPairs]:
    """(B,) bool, which boxes are not group-of, and their pairs with at least the IoU ``least_iou``, in (0, 1].

    ``box`` is (B, 4) xmin, ymin, xmax, ymax in any unit, image after image; ``box_stop`` is the (N,) end of each
    image's rows; ``is_group_of`` is (B,) 1, 0 or -1 (unknown, treated as a single object). Progress is in boxes.
    """
    single: np.ndarray = is_group_of != 1
    row = np.arange(len(box))
    later = np.repeat(box_stop, np.diff(box_stop, prepend=0)) - row - 1  # later rows of the same image
    first, second, iou = overlapping_pairs(box, box, row + 1, later, least_iou, progress)
    # Dropping pairs afterwards needs no copy of the memory-mapped boxes.
    kept = single[first] & single[second]
    return single, BoxPairs(first[kept], second[kept], iou[kept], least_iou)


def overlapping_pairs(
    a: np.ndarray,
    b: np.ndarray,
    start: np.ndarray,
    count: np.ndarray,
    iou_threshold: float,
    progress: Progress = no_progress,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compares each of (A, 4) boxes ``a`` with ``count`` (A,) rows of (B, 4) boxes ``b`` from row ``start`` (A,) on.

    Returns (P,) int64 rows of ``a``, ascending, (P,) int64 rows of ``b``, and their (P,) float64 IoU: all pairs of at
    least ``iou_threshold``. A threshold out of (0, 1] is a ValueError. Progress is in boxes ``a``.
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f'iou_threshold must be in (0, 1], got {iou_threshold}')
    area_a = box_area(a)
    area_b = area_a if b is a else box_area(b)
    none = np.empty(0, dtype=np.int64)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [(none, none, np.empty(0))]
    for low, high in runs_of_rows(count, PAIRS_AT_ONCE):
        first, position = row_and_position(count[low:high])
        first += low
        second = start[first] + position
        # IoU <= smaller area / larger area: two numbers per pair exclude most pairs before all eight are read.
        smaller, larger = np.minimum(area_a[first], area_b[second]), np.maximum(area_a[first], area_b[second])
        similar = smaller >= (iou_threshold - SLACK) * larger
        first, second = first[similar], second[similar]
        iou = box_iou(a[first], b[second])
        same = iou >= iou_threshold
        found.append((first[same], second[same], iou[same]))
        progress('comparing boxes', high, len(a))
    rows_a, rows_b, iou = (np.concatenate(column) for column in zip(*found))
    return rows_a, rows_b, iou


def _components(num_boxes: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(num_boxes,) component of each box, from 0 without gaps, where (P,) ``first`` and ``second`` are connected."""
    graph = coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(num_boxes, num_boxes))
    return connected_components(graph, directed=False)[1]


def label_sets(single: np.ndarray, label: np.ndarray, pairs: BoxPairs, num_classes: int) -> LabelSets:
    """The labels of each object, from (B,) class indices and what :func:`single_object_pairs` returns."""
    # Only boxes of a pair need grouping, about one in fifty.
    paired, ends = np.unique(np.concatenate([pairs.first, pairs.second]), return_inverse=True)
    group = _components(len(paired), ends[: len(pairs.first)], ends[len(pairs.first) :])
    alone = single.copy()
    alone[paired] = False
    shape = (int(group.max(initial=-1)) + 1, num_classes)
    shared = coo_matrix((np.ones(len(paired), dtype=np.int64), (group, label[paired])), shape).tocsr()
    shared.data[:] = 1  # several boxes of the object may have the same label
    return LabelSets(np.bincount(label[alone], minlength=num_classes), shared)
