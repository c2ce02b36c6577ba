"""A model's mistakes by image and class, their kinds, and a paired bootstrap of the difference between two models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from scipy.sparse import coo_matrix

from mmoid.openimages.metric.annotations import Annotations
from mmoid.openimages.metric.average_precision import ranked_rows, weighted_ap
from mmoid.openimages.metric.matching import GroundTruth, Matches, match_detections
from mmoid.openimages.predictions.prediction_store import Detections
from mmoid.openimages.ragged import runs_of_rows
from mmoid.openimages.statistics.objects import overlapping_pairs
from mmoid.utils.progress import Progress, no_progress

KINDS = {
    'duplicate': 'of an object that a better-scored detection has found',
    'localisation': 'on an object of the class, IoU 0.1 to 0.5',
    'ancestor': 'on an object of an ancestor or descendant of the class',
    'sibling': 'on an object of a class with the same parent',
    'other class': 'on an object of another class',
    'background': 'on no annotated object',
    'unverified': 'of a class that is not verified in the image; not counted by the challenge',
}
"""Kinds of errors and their meaning. A detection has the first kind that fits."""

NEAR, FOUND = 0.1, 0.5
"""Lowest IoU of a detection that is badly localised, and of one that finds an object."""

ELEMENTS_AT_ONCE = 1 << 20
"""Bounds the memory of the bootstrap."""


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


@dataclass(frozen=True, eq=False)
class Difference:
    """A difference in mAP, second minus first."""

    value: float  # on the images as they are
    low: float  # lower end of the 95 % interval of the bootstrap
    high: float  # upper end


def bootstrap(
    ground_truth: GroundTruth,
    first: Matches,
    second: Matches,
    groups: Sequence[np.ndarray],
    samples: int = 1000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> list[Difference]:
    """95 % intervals of the difference in mAP over images drawn with replacement, the same images for both.

    Args:
        ground_truth: Of all images.
        first: Matches of the first set, with a group-of weight of 1.
        second: Matches of the second.
        groups: Class indices of each group of classes.
        samples: Number of draws.
        seed: Of the draws.
        progress: Progress in classes of both sets.

    Returns:
        The difference of each group, NaN without ground truth. In a draw, classes without ground truth are left out.

    Raises:
        ValueError: ``samples`` below 2.
    """
    if samples < 2:
        raise ValueError(f'samples must be at least 2, got {samples}')
    rng, num_images = np.random.default_rng(seed), ground_truth.num_images
    drawn = np.ones((samples + 1, num_images), dtype=np.float32)  # row 0: the images as they are
    for row in drawn[1:]:
        row[:] = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
    shape, ones = (ground_truth.num_classes, num_images), np.ones(len(ground_truth.label))
    positives = coo_matrix((ones, (ground_truth.label, ground_truth.image)), shape).tocsr() @ drawn.T
    ap = np.empty((2, samples + 1, ground_truth.num_classes))
    for side, matches in enumerate((first, second)):
        for label, rows in enumerate(ranked_rows(matches, ground_truth.num_classes)):
            for start, stop in runs_of_rows(np.full(samples + 1, len(rows)), ELEMENTS_AT_ONCE):
                times = drawn[start:stop, matches.image[rows]]
                ap[side, start:stop, label] = weighted_ap(matches.value[rows], times, positives[label, start:stop])
            progress('drawing images', side * len(positives) + label + 1, 2 * len(positives))
    return [_difference(ap[:, :, labels]) for labels in groups]


def _difference(ap: np.ndarray) -> Difference:
    """Of (2, S, n) APs; row 0 is that of the images as they are."""
    mean = np.ma.masked_invalid(ap).mean(axis=2).filled(np.nan)
    value, *draws = mean[1] - mean[0]
    known = np.array(draws)[~np.isnan(draws)]
    low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (np.nan, np.nan)
    return Difference(float(value), float(low), float(high))


def error_kinds(annotations: Annotations, ground_truth: GroundTruth, found: Detections) -> np.ndarray:
    """The kind of error of each of D detections.

    ``annotations`` have a hierarchy, and ``ground_truth`` is made of them.

    Returns:
        (D,) int index into :data:`KINDS`; -1: no error, or absorbed by a group-of box.
    """
    assert annotations.hierarchy is not None
    names, (image, label, score, box) = list(KINDS), found
    verdict = judge(ground_truth, image, label, score, box, FOUND)[0]
    kind = np.where(verdict == Verdict.FALSE, names.index('background'), -1)
    if ground_truth.verified is not None:
        known = np.isin(image * ground_truth.num_classes + label, ground_truth.verified)
        kind[~known] = names.index('unverified')

    ancestor = annotations.hierarchy.ancestor_matrix
    parent = ancestor & ~(ancestor.astype(np.int64) @ ancestor > 0)
    sibling = parent.astype(np.int64) @ parent.T > 0
    relation = np.full(ancestor.shape, names.index('other class'))
    relation[sibling] = names.index('sibling')
    relation[ancestor | ancestor.T] = names.index('ancestor')
    np.fill_diagonal(relation, names.index('duplicate'))

    singles = np.flatnonzero(~ground_truth.is_group_of)
    singles = singles[np.argsort(ground_truth.image[singles], kind='stable')]
    stop = np.cumsum(np.bincount(ground_truth.image[singles], minlength=ground_truth.num_images))
    is_copy = annotations.label[ground_truth.source] != ground_truth.label
    wrong = np.flatnonzero(verdict == Verdict.FALSE)
    counts = np.diff(stop, prepend=0)[image[wrong]]
    near = overlapping_pairs(box[wrong], ground_truth.box[singles], stop[image[wrong]] - counts, counts, NEAR)
    one, other, iou = wrong[near[0]], singles[near[1]], near[2]
    same = label[one] == ground_truth.label[other]
    related = np.where(iou >= FOUND, relation[label[one], ground_truth.label[other]], len(names))
    related[same & (iou < FOUND)] = names.index('localisation')
    related[is_copy[other] & ~same] = len(names)  # confusions are with annotated labels
    np.minimum.at(kind, one, related)
    return kind
