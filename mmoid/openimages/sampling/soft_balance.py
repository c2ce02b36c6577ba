"""Soft-balance sampling: which class, then which of its images (Sec. 4.2 of the paper, Eq. 6-8).

Draws are a pure function of (seed, epoch), so a run can be resumed and repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

GOLDEN = 0.6180339887498949
DRAWS_AT_ONCE = 4096
"""Draws of a rare class per random generator. Making a generator costs as much as a thousand draws."""


def class_probabilities(image_counts: np.ndarray, balance: float) -> np.ndarray:
    """P_s of Eq. 8: P_s(i) proportional to P_n(i) * (1 / (C * P_n(i))) ** balance.

    Args:
        image_counts: (C,) n_i, number of images with class i. Classes without images are never drawn.
        balance: λ >= 0. 0 draws classes by their frequency (P_n, Eq. 6), 1 draws all classes equally often
            (class-aware), 0.7 is the paper's best. Above 1, rare classes are drawn more often than frequent ones.

    Returns:
        (C,) float64 that sum to 1.

    Raises:
        ValueError: λ is negative or not finite, or no class has an image.

    Examples:
        >>> class_probabilities(np.array([90, 10]), balance=0.5)
        array([0.75, 0.25])
    """
    if not balance >= 0 or not np.isfinite(balance):
        raise ValueError(f'balance (λ) must be a finite number >= 0, got {balance}')
    counts = np.asarray(image_counts, dtype=np.float64)
    present = counts > 0
    if not present.any():
        raise ValueError('no class has an image; there is nothing to draw')
    probabilities = np.zeros_like(counts)
    # C and any scale of n_i cancel in the normalization. With the rarest class at 1 no weight overflows, whatever λ.
    weights = (counts[present] / counts[present].min()) ** (1.0 - balance)
    probabilities[present] = weights / weights.sum()
    return probabilities


@dataclass(frozen=True)
class BalancedDraws:
    """A reproducible, endless series of draws: a class, then an image of it.

    Each epoch draws class i floor or ceil of its expected number of times (systematic sampling): a class with 0.3
    expected draws is drawn in 3 of 10 epochs. The draws of a class follow random permutations of its images, across
    epochs too: no image of a class is drawn twice before all its images are drawn once.

    Args:
        image_counts: (C,) n_i.
        balance: λ of Eq. 8, see :func:`class_probabilities`.
        draws_per_epoch: Number of draws in one epoch.
        seed: Seed of all random numbers, >= 0.

    Examples:
        >>> draws = BalancedDraws(np.array([8, 2]), balance=1.0, draws_per_epoch=4, seed=0)
        >>> label, position = draws.epoch(0)
        >>> np.bincount(label)
        array([2, 2])
    """

    image_counts: np.ndarray
    balance: float
    draws_per_epoch: int
    seed: int

    def __post_init__(self) -> None:
        self._edges  # noqa: B018  (fail now, not at the first epoch)

    def per_class_before(self, epoch: int) -> np.ndarray:
        """(C,) int64: draws of each class in all epochs before this one."""
        whole, threshold = self._edges
        # The start of the systematic sampling in each epoch, in [0, 1). Steps of the golden ratio spread it evenly.
        starts = np.sort((np.random.default_rng(self.seed).random() + GOLDEN * np.arange(epoch)) % 1.0)
        return np.diff(epoch * whole + epoch - np.searchsorted(starts, threshold))

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """All draws of one epoch, with the classes in random order.

        Returns:
            (draws_per_epoch,) int64 class indices, and (draws_per_epoch,) int64 positions in the class's images.
        """
        before = self.per_class_before(epoch)
        counts = self.per_class_before(epoch + 1) - before
        # Small integers, which numpy sorts fastest.
        label = np.repeat(np.arange(len(counts), dtype=np.min_scalar_type(len(counts))), counts)
        shuffled = np.random.default_rng([self.seed, epoch]).permutation(label)
        position = np.empty(len(label), dtype=np.int64)
        # The stable sort keeps the draws of each class in their order.
        position[np.argsort(shuffled, kind='stable')] = np.concatenate(
            [self._positions(int(k), int(before[k]), int(counts[k])) for k in np.flatnonzero(counts)]
        )
        return shuffled.astype(np.int64), position

    def first_images(self, label: int, count: int) -> np.ndarray:
        """(count,) positions in the class's images that are drawn first; ``count`` is at most the number of images."""
        return self._positions(label, 0, count) if count else np.empty(0, dtype=np.int64)

    def _positions(self, label: int, first: int, count: int) -> np.ndarray:
        """(count,) images of a class: its draws number ``first`` to ``first + count - 1``."""
        size = int(self.image_counts[label])
        walks = max(1, DRAWS_AT_ONCE // size)  # permutations that share one generator
        in_order = np.broadcast_to(np.arange(size), (walks, size))
        block = walks * size
        drawn = [
            np.random.default_rng([self.seed, label, k]).permuted(in_order, axis=1)
            for k in range(first // block, (first + count - 1) // block + 1)
        ]
        return np.concatenate(drawn, axis=None)[first % block :][:count]

    @cached_property
    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        """(C + 1,) whole expected draws up to each class, and the start from which there is one more."""
        edges = np.concatenate([[0.0], np.cumsum(class_probabilities(self.image_counts, self.balance))])
        # Rounding must neither lose the last draw nor give one to an empty class at the end.
        edges[edges >= edges[-1]] = 1.0
        fraction, whole = np.modf(edges * self.draws_per_epoch)
        return whole.astype(np.int64), 1 - fraction


def effective_number_weights(counts: np.ndarray, beta: float) -> np.ndarray:
    """Class weights (1 - β) / (1 - β^n): the inverse of the effective number of samples.

    Cui, Jia, Lin, Song, Belongie, "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, Eq. 2-3 and
    Sec. 4; Table 3 of the paper compares with it.

    Args:
        counts: (C,) samples of each class, n.
        beta: β in [0, 1). 0 gives all classes the same weight; near 1 the weights approach 1 / n.

    Returns:
        (C,) float64 with a mean of 1 over all samples; 0 for classes without samples. Their mean of 1 over the
        classes would take most of the weight of the foreground away from a detector, whose background has factor 1.

    Raises:
        ValueError: β is not in [0, 1).
    """
    if not 0 <= beta < 1:
        raise ValueError(f'beta must be in [0, 1), got {beta}')
    counts = np.asarray(counts, dtype=np.float64)
    present = counts > 0
    weights = np.zeros_like(counts)
    with np.errstate(divide='ignore'):  # log 0 = -inf is right: 0 ** n = 0
        weights[present] = (1 - beta) / -np.expm1(counts[present] * np.log(beta))
    return weights / np.average(weights, weights=counts) if present.any() else weights
