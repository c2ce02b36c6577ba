"""The official Open Images detection metric on arrays: the Challenge rules and the V2 rules.

Images and classes are indices. A *key*, ``image * num_classes + label``, names one image and class, the unit within
which boxes are matched. Boxes are xmin, ymin, xmax, ymax, ground truth and detections in the same unit; all
arithmetic is float64. Memory is bounded by the rows given, never by images x classes.

    ground_truth = GroundTruth.build(...)                                # expanded boxes, verified classes
    matches = match_detections(ground_truth, image, label, score, box)   # in one go, or chunk by chunk of images
    ap = average_precision(matches, count_positives(ground_truth))       # (C,), NaN: class without ground truth

Challenge: a hierarchy, ``verified_only=True``, ``group_of_weight=1``. V2: none, ``False``, 0.

Equal scores, whose order the official code leaves to chance: within an image and class the detection that was given
first goes first; across images the lower image index; the groups found in an image follow its detections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmoid.openimages.metric.arrays import float_column, index_column, require_rows
from mmoid.openimages.metric.ground_truth import GroundTruth
from mmoid.openimages.metric.matching import Matches, check_group_of_weight, match_detections

__all__ = [
    'DetectionResult',
    'GroundTruth',
    'Matches',
    'average_precision',
    'count_positives',
    'evaluate_detections',
    'match_detections',
    'mean_average_precision',
]


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """``ap`` (C,) with NaN for classes without ground truth, its mean, ``positives`` (C,), images evaluated."""

    ap: np.ndarray
    mean_ap: float
    positives: np.ndarray
    num_images: int


def count_positives(ground_truth: GroundTruth, group_of_weight: float = 1.0, images: Any = None) -> np.ndarray:
    """(C,) float64: single boxes + ``group_of_weight`` x group-of boxes per class.

    Args:
        ground_truth: Of all images.
        group_of_weight: As given to :func:`match_detections`.
        images: (I,) int indices of the images to count, each counted once; None: all.
    """
    check_group_of_weight(group_of_weight)
    weight = np.where(ground_truth.is_group_of, float(group_of_weight), 1.0)
    if images is not None:
        chosen = np.zeros(ground_truth.num_images, dtype=bool)
        chosen[index_column('images', images, ground_truth.num_images)] = True
        weight = weight * chosen[ground_truth.image]
    return np.bincount(ground_truth.label, weights=weight, minlength=ground_truth.num_classes)


def average_precision(matches: Matches, positives: Any) -> np.ndarray:
    """Exact area under the monotone precision-recall envelope (VOC 2010), per class.

    The order of the chunks that ``matches`` were put together from does not matter.

    Args:
        matches: Of the images evaluated, each image once.
        positives: (C,) from :func:`count_positives`.

    Returns:
        (C,) float64: 0 without a detection, NaN without positives.

    Raises:
        ValueError: More true positives than positives in a class: the two do not belong together.
    """
    positives = float_column('positives', positives)
    label = index_column('matches.label', matches.label, len(positives))
    found = np.bincount(label, weights=matches.value, minlength=len(positives))
    expected = 'at least the true positives of the class (same group_of_weight and images in both, each image once)'
    require_rows('positives', positives, found <= positives * (1 + 1e-9), expected)
    ap = np.full(len(positives), np.nan)
    count = np.bincount(label, minlength=len(positives))
    start = np.cumsum(count) - count
    by_label = np.argsort(label, kind='stable')
    for index in np.flatnonzero(positives > 0):
        rows = by_label[start[index] : start[index] + count[index]]
        rows = rows[np.lexsort((matches.image[rows], -matches.score[rows]))]
        ap[index] = _envelope_area(matches.value[rows], positives[index])
    return ap


def mean_average_precision(ap: np.ndarray) -> float:
    """Mean over the classes that have ground truth, non-leaf classes included; NaN where there are none."""
    valid = ap[~np.isnan(ap)]
    return float(valid.mean()) if len(valid) else float('nan')


def evaluate_detections(
    ground_truth: GroundTruth,
    image: Any,
    label: Any,
    score: Any,
    box: Any,
    iou_threshold: float = 0.5,
    group_of_weight: float = 1.0,
    max_detections: int = 10000,
) -> DetectionResult:
    """The whole metric in one go; arguments as for :func:`match_detections`."""
    matches = match_detections(ground_truth, image, label, score, box, iou_threshold, group_of_weight, max_detections)
    positives = count_positives(ground_truth, group_of_weight)
    ap = average_precision(matches, positives)
    return DetectionResult(ap, mean_average_precision(ap), positives, ground_truth.num_images)


def _envelope_area(value: np.ndarray, positives: float) -> float:
    """AP of one class from its values in order of descending score."""
    true = np.cumsum(value)
    precision = true / (true + np.cumsum(value == 0))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(value * envelope) / positives)
