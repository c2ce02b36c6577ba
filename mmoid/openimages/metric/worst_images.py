"""What the metric holds against a model: by image and class, and for each single detection."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from mmoid.openimages.metric.ground_truth import GroundTruth
from mmoid.openimages.metric.matching import Matches, match_detections


class Verdict(IntEnum):
    """On one detection: a false positive, a true positive, or neither.

    Neither: a group-of box absorbed it, or nobody verified whether its class is in the image.
    """

    FALSE = 0
    TRUE = 1
    NOT_COUNTED = 2


@dataclass(frozen=True, eq=False)
class Mistakes:
    """Images and classes with something to find, or with a false positive.

    Attributes:
        image: (K,) int64 image indices.
        label: (K,) int64 class indices.
        missed: (K,) float64 ground truths (a group-of box counts ``group_of_weight``) that were not found.
        false: (K,) float64, the scores of the false positives, summed: one that the model is sure of weighs as much
            as an object that it misses.
    """

    image: np.ndarray
    label: np.ndarray
    missed: np.ndarray
    false: np.ndarray

    @property
    def cost(self) -> np.ndarray:
        """(K,) float64, what there is to mend."""
        return self.missed + self.false

    def worst_images(self, label: int, number: int) -> np.ndarray:
        """At most ``number`` images with mistakes about a class, the worst first; of equals the first image."""
        rows = np.flatnonzero((self.label == label) & (self.cost > 0))
        return self.image[rows[np.lexsort((self.image[rows], -self.cost[rows]))][:number]]


def count_mistakes(
    ground_truth: GroundTruth, matches: Matches, group_of_weight: float = 1.0, score_threshold: float = 0.0
) -> Mistakes:
    """Sums up the verdicts of a whole evaluation.

    Args:
        ground_truth: Of all images.
        matches: Of all detections, each image once.
        group_of_weight: As given to :func:`match_detections`.
        score_threshold: Detections below it are taken for not there: they change no verdict on the others.
    """
    kept = matches.score >= score_threshold
    value, score = matches.value[kept], matches.score[kept]
    there = ground_truth.image * ground_truth.num_classes + ground_truth.label
    scored = (matches.image * ground_truth.num_classes + matches.label)[kept]
    keys, place = np.unique(np.concatenate([there, scored]), return_inverse=True)
    there, scored = place[: len(there)], place[len(there) :]
    wanted = np.bincount(there, np.where(ground_truth.is_group_of, group_of_weight, 1.0), minlength=len(keys))
    found = np.bincount(scored, value, minlength=len(keys))
    false = np.bincount(scored, np.where(value == 0, score, 0.0), minlength=len(keys))
    image, label = np.divmod(keys, ground_truth.num_classes)
    return Mistakes(image, label, np.maximum(wanted - found, 0), false)


def judge(
    ground_truth: GroundTruth,
    image: int,
    label: int,
    score: np.ndarray,
    box: np.ndarray,
    iou_threshold: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """The verdict on each detection of one class in one image.

    Args:
        ground_truth: Of all images.
        image: Index.
        label: Class index.
        score: (D,).
        box: (D, 4).
        iou_threshold: As of :func:`match_detections`.

    Returns:
        (D,) :class:`Verdict` values, and the (F,) rows of the ground truth's single boxes that were found.
    """
    # Matches come without the rows that they were made from: scores that keep the order and name the row.
    names = np.empty(len(score))
    names[np.argsort(-np.asarray(score), kind='stable')] = np.arange(len(score), 0, -1)
    row_of = np.argsort(names, kind='stable')
    columns = (np.full(len(score), image), np.full(len(score), label), names, box)
    matches = match_detections(ground_truth, *columns, iou_threshold, group_of_weight=0.0)
    verdict = np.full(len(score), Verdict.NOT_COUNTED, dtype=np.int64)
    verdict[row_of[matches.score.astype(np.int64) - 1]] = np.where(matches.value > 0, Verdict.TRUE, Verdict.FALSE)
    return verdict, matches.found
