"""Boxes that lie on one object.

Open Images gives one box row per label: an object that is a Wheel and a Tire has two rows with (nearly) the same box.
Rows of one image whose boxes overlap with IoU >= a threshold are taken as one object.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .ragged import row_and_position

PAIRS_AT_ONCE = 1 << 21
"""Bounds the memory of :func:`same_object_pairs`, about 200 bytes a pair."""


def same_object_pairs(box: np.ndarray, box_stop: np.ndarray, iou_threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Finds all pairs of boxes of one image with IoU >= ``iou_threshold``.

    Args:
        box: (B, 4) xmin, ymin, xmax, ymax, any unit, image after image.
        box_stop: (N,) end of each image's rows.
        iou_threshold: In (0, 1].

    Returns:
        Two (P,) int64 arrays of row indices, first < second.
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f'iou_threshold must be in (0, 1], got {iou_threshold}')
    row = np.arange(len(box))
    partners = np.repeat(box_stop, np.diff(box_stop, prepend=0)) - row - 1  # later rows of the same image
    done = np.cumsum(partners)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    start = 0
    while start < len(box):
        budget = PAIRS_AT_ONCE + (done[start - 1] if start else 0)
        stop = max(start + 1, int(np.searchsorted(done, budget, side='right')))
        first, position = row_and_position(partners[start:stop])
        first += start
        second = first + 1 + position
        same = paired_iou(box[first], box[second]) >= iou_threshold
        found.append((first[same], second[same]))
        start = stop
    if not found:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])


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
    overlap = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    intersection = np.prod(np.maximum(overlap, 0), axis=1)
    union = np.prod(a[:, 2:] - a[:, :2], axis=1) + np.prod(b[:, 2:] - b[:, :2], axis=1) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
