"""How often soft-balance sampling shows each image, for choosing λ and the number of epochs.

Of N draws in an epoch, m_i = N P_s(i) are of class i (Eq. 8). They follow permutations of the class's n_i images, so
each image is drawn floor or ceil of m_i / n_i times for class i.

Sec. 3 of the paper gives two figures for class-aware sampling (λ = 1, m_i = N / C): 99.13 % of the most frequent
class's images are neglected, and images of the rarest class are seen 252 times. With N = 1,743,042 images and C = 500
classes, m_i = 3,486: 99.13 % means a class with 401,000 images, and a class with 14 images is seen 249 times.

An image is drawn for each of its classes, K. Permutations of different classes are independent: after m_j draws of each
class j, it is unseen with probability Π_{j in K} max(0, 1 - m_j / n_j), and seen Σ_{j in K} m_j / n_j times on average.
:func:`expected_coverage` sums these, which is exact. :func:`counted_coverage` counts real draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from mmoid.openimages.sampling.soft_balance import BalancedDraws, class_probabilities
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.progress import Progress, no_progress


@dataclass(frozen=True)
class ImageLists:
    """The images of each class, and the number of boxes of each image."""

    holds: csr_array  # (C, N) bool: whether a class is in an image
    boxes: np.ndarray  # (N,) int64 boxes of each image

    @classmethod
    def of_store(cls, store: AnnotationStore, expand_hierarchy: bool = True) -> ImageLists:
        """The lists of a store. If expanded, an image counts for the ancestors of its classes too."""
        return cls(store.images_by_class(expand_hierarchy), np.diff(store.box_stop, prepend=0))

    @property
    def image_counts(self) -> np.ndarray:
        """(C,) int64: n_i."""
        return np.diff(self.holds.indptr)

    @property
    def has_class(self) -> np.ndarray:
        """(N,) bool: whether an image has a class."""
        return np.bincount(self.holds.indices, minlength=len(self.boxes)) > 0


@dataclass(frozen=True)
class Coverage:
    """Images seen after a number of draws, expected or counted. Images without a class are excluded."""

    image_counts: np.ndarray  # (C,) int64: n_i
    draws: np.ndarray  # (C,) float64: m_i
    seen: np.ndarray  # (C,) float64: mean times that an image of the class is seen, drawn for any of its classes
    unseen: np.ndarray  # (C,) float64 in [0, 1]: share of the class's images that are never seen
    images_unseen: float  # share of all images that are never seen
    boxes_unseen: float  # share of all boxes that are on those images

    @property
    def drawn(self) -> np.ndarray:
        """(C,) float64: m_i / n_i, times that an image of the class is drawn for this class."""
        return self.draws / np.maximum(self.image_counts, 1)

    @property
    def neglected(self) -> np.ndarray:
        """(C,) float64 in [0, 1]: max(0, 1 - m_i / n_i), the share of the class's images not drawn for this class."""
        return np.where(self.image_counts > 0, np.maximum(0.0, 1.0 - self.drawn), 0.0)


def expected_coverage(lists: ImageLists, draws: np.ndarray) -> Coverage:
    """Exact expectation after (C,) ``draws`` of each class, which need not be whole numbers."""
    share = draws / np.maximum(lists.image_counts, 1)
    with np.errstate(divide='ignore'):  # log 0 = -inf: the image was certainly seen
        log_missed = np.log(np.maximum(0.0, 1.0 - share))
    of_class = lists.holds.T
    return _coverage(lists, draws, of_class @ share, np.exp(of_class @ log_missed))


def counted_coverage(
    lists: ImageLists, series: BalancedDraws, epochs: Sequence[int], progress: Progress = no_progress
) -> list[Coverage]:
    """Coverage of the real draws of ``series`` from ``lists``, after each number of ``epochs`` (ascending)."""
    times = np.zeros(len(lists.boxes), dtype=np.int64)
    coverages = []
    for epoch in range(epochs[-1]):
        label, position = series.epoch(epoch)
        times += np.bincount(lists.holds.indices[lists.holds.indptr[label] + position], minlength=len(times))
        if epoch + 1 in epochs:
            draws, unseen = series.per_class_before(epoch + 1), times == 0
            coverages.append(_coverage(lists, draws.astype(float), times, unseen.astype(float)))
        progress(f'counting draws, λ = {series.balance:g}', epoch + 1, epochs[-1])
    return coverages


def head_middle_tail(image_counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Class indices of head, middle and tail: a third each of the classes with images, most frequent first."""
    order = np.argsort(-image_counts, kind='stable')
    return tuple(np.array_split(order[: np.count_nonzero(image_counts)], 3))


@dataclass(frozen=True)
class SamplingPlan:
    """Coverage of one λ (``balance``) after the first epoch and after all ``epochs``."""

    balance: float
    samples_per_epoch: int
    epochs: int
    one_epoch: Coverage
    all_epochs: Coverage


def plan_sampling(
    lists: ImageLists,
    balance: float,
    epochs: int,
    samples_per_epoch: int | None = None,
    seed: int | None = None,
    progress: Progress = no_progress,
) -> SamplingPlan:
    """Coverage of one λ, expected or counted.

    Args:
        lists: Of the training set.
        balance: λ >= 0.
        epochs: At least 1.
        samples_per_epoch: Draws per epoch; if None, the number of images that have a class.
        seed: If given, count the draws that :class:`mmoid.SoftBalanceClassAwareSampler` makes with this seed.
        progress: Called after each counted epoch.

    Raises:
        ValueError: An argument out of range, or no class has an image.
    """
    for name, value in (('epochs', epochs), ('samples_per_epoch', samples_per_epoch)):
        if value is not None and value < 1:
            raise ValueError(f'{name} must be at least 1, got {value}')
    samples = samples_per_epoch or np.count_nonzero(lists.has_class)
    if seed is None:
        draws = samples * class_probabilities(lists.image_counts, balance)
        coverages = [expected_coverage(lists, times * draws) for times in (1, epochs)]
    else:
        series = BalancedDraws(lists.image_counts, balance, samples, seed)
        coverages = counted_coverage(lists, series, sorted({1, epochs}), progress)
    return SamplingPlan(balance, samples, epochs, coverages[0], coverages[-1])


def _coverage(lists: ImageLists, draws: np.ndarray, seen: np.ndarray, unseen: np.ndarray) -> Coverage:
    """From (N,) times that each image is seen, and (N,) probabilities that it is not."""
    has_class, size = lists.has_class, np.maximum(lists.image_counts, 1)
    boxes = lists.boxes * has_class
    return Coverage(
        image_counts=lists.image_counts,
        draws=draws,
        seen=lists.holds @ seen / size,
        unseen=lists.holds @ unseen / size,
        images_unseen=float(unseen[has_class].mean()),
        boxes_unseen=float((unseen * boxes).sum() / max(1, boxes.sum())),
    )
