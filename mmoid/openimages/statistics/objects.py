"""Objects: which boxes lie on one object, and which labels it has.

Open Images has one box per label: an object that is a Wheel and a Tire has two nearly equal boxes. An object is a
connected component of the boxes of one image; boxes with IoU >= a threshold (0.9 by default) are connected. Group-of
boxes are not objects.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from mmoid.openimages.boxes import box_area, box_iou, intersection_area
from mmoid.openimages.ragged import row_and_position, runs_of_rows
from mmoid.utils.progress import Progress, no_progress

PAIRS_AT_ONCE = 1 << 18  # bounds the memory, about 100 bytes per pair; larger values are slower
SLACK = 1e-9  # tolerance of the test by area that precedes the exact test, so that rounding loses no pair


def object_of_box(
    box: np.ndarray, box_stop: np.ndarray, is_group_of: np.ndarray, iou_threshold: float = 0.9
) -> np.ndarray:
    """(B,) int64 object index of each box, -1 for a group-of box; arguments of :func:`object_pairs`."""
    first, second, _ = object_pairs(box, box_stop, is_group_of, iou_threshold)
    return number_objects(is_group_of, first, second)


def object_pairs(
    box: np.ndarray,
    box_stop: np.ndarray,
    is_group_of: np.ndarray,
    iou_threshold: float,
    progress: Progress = no_progress,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of boxes of one image that are not group-of and have at least an IoU in (0, 1].

    ``box`` is (B, 4) xmin, ymin, xmax, ymax in any unit, image after image; ``box_stop`` is the (N,) end of each
    image's rows; ``is_group_of`` is (B,) 1, 0 or -1 (unknown, treated as a single object). Progress is in boxes.

    Returns (P,) int64 rows, (P,) int64 greater rows, and their (P,) float64 IoU.
    """
    row = np.arange(len(box))
    later = np.repeat(box_stop, np.diff(box_stop, prepend=0)) - row - 1  # later rows of the same image
    first, second, iou = overlapping_pairs(box, box, row + 1, later, iou_threshold, progress)
    # Dropping pairs afterwards needs no copy of the memory-mapped boxes.
    kept = (is_group_of[first] != 1) & (is_group_of[second] != 1)
    return first[kept], second[kept], iou[kept]


def number_objects(is_group_of: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(B,) int64 object of each box, from 0 without gaps, if (P,) ``first`` and ``second`` are on one; -1: group-of."""
    single = is_group_of != 1
    node, size = np.cumsum(single) - 1, np.count_nonzero(single)
    graph = coo_array((np.ones(len(first), dtype=bool), (node[first], node[second])), shape=(size, size))
    objects = np.full(len(single), -1)
    objects[single] = connected_components(graph, directed=False)[1]
    return objects


def labels_of_objects(objects: np.ndarray, label: np.ndarray, num_classes: int) -> csr_array:
    """(O, C) bool: the labels of each object, from (B,) object indices, -1: none, and (B,) class indices."""
    rows = np.flatnonzero(objects >= 0)
    shape = (int(objects.max(initial=-1)) + 1, num_classes)
    return csr_array((np.ones(len(rows), dtype=bool), (objects[rows], label[rows])), shape)


def require_threshold(iou_threshold: float) -> None:
    """Raises a ValueError unless the threshold is in (0, 1]."""
    if not 0 < iou_threshold <= 1:
        raise ValueError(f'iou_threshold must be in (0, 1], got {iou_threshold}')


def overlapping_pairs(
    a: np.ndarray,
    b: np.ndarray,
    start: np.ndarray,
    count: np.ndarray,
    iou_threshold: float,
    progress: Progress = no_progress,
    over_union: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compares each of (A, 4) boxes ``a`` with ``count`` (A,) rows of (B, 4) boxes ``b`` from row ``start`` (A,) on.

    Returns (P,) int64 rows of ``a``, ascending, (P,) int64 rows of ``b``, and their (P,) float64 IoU: all pairs of at
    least ``iou_threshold``. If not ``over_union``, intersection over the area of ``a`` takes the place of the IoU. A
    threshold out of (0, 1] is a ValueError. Progress is in boxes ``a``.
    """
    require_threshold(iou_threshold)
    area_a = box_area(a)
    area_b = area_a if b is a else box_area(b)
    none = np.empty(0, dtype=np.int64)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [(none, none, np.empty(0))]
    for low, high in runs_of_rows(count, PAIRS_AT_ONCE):
        first, position = row_and_position(count[low:high])
        first += low
        second = start[first] + position
        if over_union:
            # IoU <= smaller area / larger area: two numbers per pair exclude most pairs before all eight are read.
            smaller, larger = np.minimum(area_a[first], area_b[second]), np.maximum(area_a[first], area_b[second])
            similar = smaller >= (iou_threshold - SLACK) * larger
            first, second = first[similar], second[similar]
            iou = box_iou(a[first], b[second])
        else:
            iou = intersection_area(a[first], b[second]) / area_a[first]
        same = iou >= iou_threshold
        found.append((first[same], second[same], iou[same]))
        progress('comparing boxes', high, len(a))
    rows_a, rows_b, iou = (np.concatenate(column) for column in zip(*found))
    return rows_a, rows_b, iou


def first_of_each(group: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """Row of each group that comes first by the keys, the last key being the most important."""
    order = np.lexsort([*keys, group])
    return order[np.unique(group[order], return_index=True)[1]]
