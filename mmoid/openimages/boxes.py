"""Area, intersection and IoU of boxes, row by row.

Boxes are (..., 4) arrays of xmin, ymin, xmax, ymax in any unit. Two arguments broadcast against each other.
"""

from __future__ import annotations

import numpy as np


def box_area(box: np.ndarray) -> np.ndarray:
    """(...,) areas; negative where corners are swapped."""
    area: np.ndarray = (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])
    return area


def intersection_area(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(...,) areas of the intersections."""
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    area: np.ndarray = np.maximum(width, 0) * np.maximum(height, 0)
    return area


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(...,) intersection over union in [0, 1]; 0 where both boxes are empty.

    Examples:
        >>> box_iou(np.array([[0, 0, 2, 1]]), np.array([[1, 0, 2, 1]]))
        array([0.5])
    """
    intersection = intersection_area(a, b)
    union = box_area(a) + box_area(b) - intersection
    return np.divide(intersection, union, out=np.zeros(union.shape), where=union > 0)


def has_area(box: np.ndarray) -> np.ndarray:
    """(...,) bool: boxes with xmin < xmax and ymin < ymax."""
    solid: np.ndarray = (box[..., 0] < box[..., 2]) & (box[..., 1] < box[..., 3])
    return solid


def below_a_pixel(box: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """(...,) bool: boxes narrower or lower than one pixel, as fractions of images of (...,) pixels.

    They are no training targets, as in mmdet's ``CocoDataset``: box regression divides by their sides.
    """
    small: np.ndarray = ((box[..., 2] - box[..., 0]) * width < 1) | ((box[..., 3] - box[..., 1]) * height < 1)
    return small
