"""Ancestors of detections: an Apple is also a Fruit. The official evaluator does not add them, so entries do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy, names_with_ancestors
from mmoid.openimages.predictions.prediction_store import Detections
from mmoid.openimages.ragged import runs_of_rows
from mmoid.openimages.statistics.objects import overlapping_pairs

ROWS_AT_ONCE = 1 << 18
"""Detections that go through NMS at a time. Bounds the working memory."""


def add_ancestors(
    hierarchy: ClassHierarchy,
    image: np.ndarray,
    label: np.ndarray,
    score: np.ndarray,
    box: np.ndarray,
    nms_iou: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Adds each detection to all ancestors of its class, with its score and box.

    Args:
        hierarchy: Over the C classes.
        image: (D,) int image index of each detection.
        label: (D,) int class indices.
        score: (D,).
        box: (D, 4) xmin, ymin, xmax, ymax, with area.
        nms_iou: NMS over the own and the added boxes of each image and class: of two that overlap by more than this
            IoU, the lower-scored one is removed. A parent then never scores below its child on the same box. Only
            classes with descendants go through NMS, since no other class gets boxes. Added to its own result again,
            it changes nothing. None: no NMS.

    Returns:
        ``rows`` and ``label``, both (M,): result k is input row ``rows[k]`` with class ``label[k]``. Rows ascend, and
        a detection comes before its copies.

    Examples:
        >>> rows, label = add_ancestors(hierarchy, image, label, score, box, nms_iou=0.5)
        >>> image, score, box = image[rows], score[rows], box[rows]
    """
    rows, label = hierarchy.expand_up(label)
    if nms_iou is None:
        return rows, label
    if not 0 < nms_iou < 1:
        raise ValueError(f'nms_iou must be between 0 and 1, got {nms_iou}')
    candidates = np.flatnonzero(~hierarchy.is_leaf[label])
    source = rows[candidates]
    key = image[source].astype(np.int64) * hierarchy.num_classes + label[candidates]
    kept = np.ones(len(rows), dtype=bool)
    kept[candidates] = _nms(key, score[source], box[source], nms_iou)
    return rows[kept], label[kept]


def with_ancestors(hierarchy: ClassHierarchy, found: Detections, nms_iou: float | None) -> Detections:
    """:func:`add_ancestors` of all columns."""
    rows, label = add_ancestors(hierarchy, *found, nms_iou)
    return found.take(rows)._replace(label=label)


def hierarchy_with_ancestors(tree: dict, label_names: Sequence[str], source: str = 'hierarchy') -> ClassHierarchy:
    """The hierarchy over some classes, followed by their ancestors that are not among them.

    Raises:
        AnnotationError: A class that the tree lacks; no class has an ancestor, so there is nothing to add.
    """
    hierarchy = ClassHierarchy(tree, names_with_ancestors(tree, label_names, source), source)
    if not hierarchy.ancestor_matrix.any():
        raise AnnotationError(f'{source}: none of the {len(label_names)} classes has an ancestor, so none can be added')
    return hierarchy


def _nms(key: np.ndarray, score: np.ndarray, box: np.ndarray, iou_threshold: float) -> np.ndarray:
    """(R,) bool: which boxes greedy NMS keeps among those of one key. Of equal scores the first row wins."""
    kept = np.ones(len(key), dtype=bool)
    order = np.lexsort((-score, key))
    count = np.unique(key, return_counts=True)[1]
    stop = np.cumsum(count)
    for first, last in runs_of_rows(count, ROWS_AT_ONCE):
        start = stop[first] - count[first]
        rows = order[start : stop[last - 1]]
        boxes, after = box[rows], np.arange(len(rows)) + 1
        end = np.repeat(stop[first:last] - start, count[first:last])
        better, worse, iou = overlapping_pairs(boxes, boxes, after, end - after, iou_threshold)
        above = iou > iou_threshold
        kept[rows] = _greedy(len(rows), better[above], worse[above])
    return kept


def _greedy(count: int, better: np.ndarray, worse: np.ndarray) -> np.ndarray:
    """(count,) bool: boxes that no kept box beats, from the (P,) boxes of each overlapping pair.

    Each round keeps the boxes that nothing undecided beats and removes those that they beat. Rounds are as many as
    the longest chain of such decisions, a handful, whatever the number of boxes.
    """
    kept = np.ones(count, dtype=bool)
    while len(better):
        beaten = np.zeros(count, dtype=bool)
        beaten[worse] = True
        removed = np.zeros(count, dtype=bool)
        removed[worse[~beaten[better]]] = True
        kept &= ~removed
        undecided = ~(removed[better] | removed[worse]) & beaten[better]
        better, worse = better[undecided], worse[undecided]
    return kept
