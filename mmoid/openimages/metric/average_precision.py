"""Average precision of each class from matches.

Example:
    >>> ground_truth = GroundTruth.build(...)                               # expanded boxes, verified classes
    >>> matches = match_detections(ground_truth, image, label, score, box)  # all images at once, or in chunks
    >>> ap = average_precision(matches, count_positives(ground_truth))      # (C,), NaN: class without ground truth

Challenge rules: a hierarchy, ``verified_only=True``, ``group_of_weight=1``. V2 rules: None, False, 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mmoid.openimages.metric.ground_truth import GroundTruth, index_column, require_rows
from mmoid.openimages.metric.matching import Matches


def count_positives(ground_truth: GroundTruth, group_of_weight: float = 1.0, images: Any = None) -> np.ndarray:
    """(C,) float64: single boxes + ``group_of_weight`` x group-of boxes of each class.

    Args:
        ground_truth: Of all images.
        group_of_weight: As given to :func:`match_detections`.
        images: (I,) int indices of the images to count, each counted once; None: all.
    """
    weight = np.where(ground_truth.is_group_of, float(group_of_weight), 1.0)
    if images is not None:
        chosen = np.zeros(ground_truth.num_images, dtype=bool)
        chosen[index_column('images', images, ground_truth.num_images)] = True
        weight = weight * chosen[ground_truth.image]
    return np.bincount(ground_truth.label, weights=weight, minlength=ground_truth.num_classes)


def average_precision(matches: Matches, positives: Any) -> np.ndarray:
    """Exact area under the monotone precision-recall envelope (VOC 2010) of each class.

    Args:
        matches: Each image once; chunks of images in any order.
        positives: (C,) from :func:`count_positives`.

    Returns:
        (C,) float64: 0 for a class without detections, NaN for a class without positives.

    Raises:
        ValueError: A class has more true positives than positives: the two do not belong together.
    """
    positives = np.asarray(positives, dtype=np.float64)
    label = matches.label
    found = np.bincount(label, weights=matches.value, minlength=len(positives))
    expected = 'at least the true positives of the class (same group_of_weight and images in both, each image once)'
    require_rows('positives', positives, found <= positives * (1 + 1e-9), expected)
    ap = np.full(len(positives), np.nan)
    stop = np.cumsum(np.bincount(label, minlength=len(positives)))
    by_label = np.split(np.argsort(label, kind='stable'), stop[:-1])
    for index in np.flatnonzero(positives > 0):
        rows = by_label[index]
        rows = rows[np.lexsort((matches.image[rows], -matches.score[rows]))]
        value = matches.value[rows]
        true = np.cumsum(value)
        precision = true / (true + np.cumsum(value == 0))
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        ap[index] = np.sum(value * envelope) / positives[index]
    return ap


def mean_average_precision(ap: np.ndarray) -> float:
    """Mean over the classes with ground truth, non-leaf classes included. NaN if no class has any."""
    valid = ap[~np.isnan(ap)]
    return float(valid.mean()) if len(valid) else float('nan')
