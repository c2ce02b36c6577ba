"""A model's mistakes: by image and class, and the verdict on single detections."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from mmoid.openimages.metric.ground_truth import GroundTruth
from mmoid.openimages.metric.matching import Matches, match_detections


class Verdict(IntEnum):
    """On one detection. Not counted: a group-of box absorbed it, or its class is not verified in the image, or it
    matches no box of a class that is not exhaustively annotated there.
    """

    FALSE = 0
    TRUE = 1
    NOT_COUNTED = 2


@dataclass(frozen=True, eq=False)
class Mistakes:
    """Mistakes of each image and class that has ground truth or scored detections."""

    image: np.ndarray  # (K,) int64 image indices
    label: np.ndarray  # (K,) int64 class indices
    missed: np.ndarray  # (K,) float64 positives that were not found; a group-of box counts ``group_of_weight``
    false: np.ndarray  # (K,) float64 sum of the scores of false positives; one at score 1 is as bad as a missed object

    @property
    def cost(self) -> np.ndarray:
        """(K,) float64 ``missed`` + ``false``."""
        return self.missed + self.false

    def worst_images(self, label: int, number: int) -> np.ndarray:
        """At most ``number`` images with mistakes in a class, the highest cost first."""
        rows = np.flatnonzero((self.label == label) & (self.cost > 0))
        return self.image[rows[np.lexsort((self.image[rows], -self.cost[rows]))][:number]]


def count_mistakes(
    ground_truth: GroundTruth, matches: Matches, group_of_weight: float = 1.0, score_threshold: float = 0.0
) -> Mistakes:
    """Sums up the verdicts of an evaluation.

    Args:
        ground_truth: Of all images.
        matches: Of all detections, each image once.
        group_of_weight: As given to :func:`match_detections`.
        score_threshold: Detections below it are ignored. This changes no verdict on the others.
    """
    kept = matches.score >= score_threshold
    value, score = matches.value[kept], matches.score[kept]
    truth_key = ground_truth.image * ground_truth.num_classes + ground_truth.label
    match_key = (matches.image * ground_truth.num_classes + matches.label)[kept]
    keys, place = np.unique(np.concatenate([truth_key, match_key]), return_inverse=True)
    of_truth, of_match = place[: len(truth_key)], place[len(truth_key) :]
    positives = np.bincount(of_truth, np.where(ground_truth.is_group_of, group_of_weight, 1.0), minlength=len(keys))
    found = np.bincount(of_match, value, minlength=len(keys))
    false = np.bincount(of_match, np.where(value == 0, score, 0.0), minlength=len(keys))
    image, label = np.divmod(keys, ground_truth.num_classes)
    return Mistakes(image, label, np.maximum(positives - found, 0), false)


def judge(
    ground_truth: GroundTruth,
    image: int | np.ndarray,
    label: int | np.ndarray,
    score: np.ndarray,
    box: np.ndarray,
    iou_threshold: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """The verdict on each detection; arguments of :func:`match_detections`, or one image and class index for all.

    Returns:
        (D,) :class:`Verdict` values, and the (F,) rows of the ground truth's single boxes that were found.
    """
    # Matches do not name their detections, but a score that is a rank does: -k is that of detection by_rank[k].
    by_rank = np.argsort(-np.asarray(score), kind='stable')
    image, label = (np.broadcast_to(index, len(score))[by_rank] for index in (image, label))
    columns = (image, label, -np.arange(len(score)), box[by_rank])
    matches = match_detections(ground_truth, *columns, iou_threshold, group_of_weight=0.0)
    verdict = np.full(len(score), Verdict.NOT_COUNTED, dtype=np.int64)
    matched = by_rank[-matches.score.astype(np.int64)]
    verdict[matched] = np.where(matches.value > 0, Verdict.TRUE, Verdict.FALSE)
    return verdict, matches.found
