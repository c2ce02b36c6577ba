"""Average precision of each class from matches.

Examples:
    >>> ground_truth = GroundTruth.build(annotations)                       # expanded boxes, verified classes
    >>> matches = match_detections(ground_truth, image, label, score, box)  # all images at once, or in chunks
    >>> ap = average_precision(matches, count_positives(ground_truth))      # (C,), NaN: class without ground truth

Challenge rules: ``expand=True``, ``verified_only=True``, ``group_of_weight=1``. V2 rules: False, False, 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mmoid.openimages.metric.matching import GroundTruth, Matches, require_rows


def count_positives(ground_truth: GroundTruth, group_of_weight: float = 1.0, images: Any = None) -> np.ndarray:
    """(C,) float64: single boxes + ``group_of_weight`` x group-of boxes of each class.

    Args:
        ground_truth: Of all images.
        group_of_weight: As given to :func:`match_detections`.
        images: (I,) int indices of the images to count, each counted once; None: all.
    """
    weight = np.where(ground_truth.is_group_of, float(group_of_weight), 1.0)
    if images is not None:
        weight = weight * np.isin(ground_truth.image, images)
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
    found = np.bincount(matches.label, weights=matches.value, minlength=len(positives))
    expected = 'at least the true positives of the class (same group_of_weight and images in both, each image once)'
    require_rows('positives', positives, found <= positives * (1 + 1e-9), expected)
    ap = np.empty(len(positives))
    for label, rows in enumerate(ranked_rows(matches, len(positives))):
        ap[label] = weighted_ap(matches.value[rows], np.ones((1, len(rows))), positives[[label]])[0]
    return ap


def ranked_rows(matches: Matches, num_classes: int) -> Iterator[np.ndarray]:
    """Rows of the matches of each class, the best score first; of equal scores the lower image index."""
    stop = np.cumsum(np.bincount(matches.label, minlength=num_classes))
    for rows in np.split(np.argsort(matches.label, kind='stable'), stop[:-1]):
        yield rows[np.lexsort((matches.image[rows], -matches.score[rows]))]


def weighted_ap(value: np.ndarray, times: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """AP of one class in S sets of images that hold some images several times.

    Args:
        value: (R,) of the matches, the best score first.
        times: (S, R) how often the image of each match is in each set.
        positives: (S,) of each set.

    Returns:
        (S,) float64: 0 without detections, NaN without positives.
    """
    gained = value * times
    true = np.cumsum(gained, axis=1, dtype=np.float64)
    counted = true + np.cumsum((value == 0) * times, axis=1, dtype=np.float64)
    precision = np.divide(true, counted, out=np.zeros_like(true), where=counted > 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    area = (gained * envelope).sum(axis=1)
    return np.divide(area, positives, out=np.full(len(area), np.nan), where=positives > 0)


def mean_average_precision(ap: np.ndarray) -> float:
    """Mean over the classes with ground truth, non-leaf classes included. NaN if no class has any."""
    valid = ap[~np.isnan(ap)]
    return float(valid.mean()) if len(valid) else float('nan')
