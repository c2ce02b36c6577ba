"""Soft-balance sampling: which class, then which of its images (Sec. 4.2 of the paper, Eq. 6-8).

Everything here is a pure function of (seed, epoch, position), so that a run can be resumed, checked and repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

GOLDEN = 0.6180339887498949
ROUNDS = 4
EPOCHS_AT_ONCE = 1024
DRAWS_AT_ONCE = 1 << 16
"""Few enough that temporary arrays stay in the cache: half the time of all at once."""

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def class_probabilities(image_counts: np.ndarray, balance: float) -> np.ndarray:
    """P_s of Eq. 8: P_s(i) proportional to P_n(i) * (1 / (C * P_n(i))) ** balance.

    Args:
        image_counts: (C,) n_i, images that hold class i; classes without images are never drawn.
        balance: λ >= 0. 0 draws classes as they occur (P_n, Eq. 6), 1 all alike (class-aware), 0.7 is the paper's
            best. Above 1 rare classes are drawn more often than frequent ones.

    Returns:
        (C,) float64 that sum to 1.

    Raises:
        ValueError: λ below 0 or not finite, no class with an image.
    """
    if not balance >= 0 or not np.isfinite(balance):
        raise ValueError(f'balance (λ) must be a finite number >= 0, got {balance}')
    counts = np.asarray(image_counts, dtype=np.float64)
    present = counts > 0
    if not present.any():
        raise ValueError('no class has an image; there is nothing to draw from')
    probabilities = np.zeros_like(counts)
    # C is the same for all classes and goes away with normalisation; so does any scale of n_i. With the rarest class
    # at 1 no weight is infinite, whatever λ.
    weights = (counts[present] / counts[present].min()) ** (1.0 - balance)
    probabilities[present] = weights / weights.sum()
    return probabilities


@dataclass(frozen=True)
class BalancedDraws:
    """The endless, reproducible series of (class, image of the class) draws.

    Classes: each epoch holds ``draws_per_epoch`` draws, of class i either floor or ceil of its expectation
    (systematic sampling); the fractional start moves on by the golden ratio each epoch, so a class that is due 0.3
    times an epoch comes 3 times in ten. Images: the draws of a class walk through a random permutation of its images,
    over epochs too; each new walk is permuted anew. No image of a class comes twice before all came once.

    Args:
        image_counts: (C,) n_i.
        balance: λ of Eq. 8.
        draws_per_epoch: Draws of one epoch.
        seed: Of everything random here.

    Raises:
        ValueError: As :func:`class_probabilities`.
    """

    image_counts: np.ndarray
    balance: float
    draws_per_epoch: int
    seed: int

    def __post_init__(self) -> None:
        self._edges  # noqa: B018  (what is wrong is told now, not when the first epoch is drawn)

    def per_class(self, epoch: int) -> np.ndarray:
        """(C,) int64: draws of each class in one epoch; they sum to ``draws_per_epoch``."""
        return np.diff(np.floor(self._edges + self._start(epoch)).astype(np.int64))

    def per_class_before(self, epoch: int) -> np.ndarray:
        """(C,) int64: draws of each class in all epochs before this one."""
        last = np.zeros(len(self._edges))
        for first in range(0, epoch, EPOCHS_AT_ONCE):  # some runs have very many short epochs
            starts = self._start(np.arange(first, min(epoch, first + EPOCHS_AT_ONCE)))
            last += np.floor(self._edges + starts[:, None]).sum(axis=0)
        return np.diff(last).astype(np.int64)

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """All draws of one epoch, the classes in random order.

        Returns:
            ``label`` (draws_per_epoch,) class indices, and ``position`` (draws_per_epoch,) in [0, n_label): which of
            the class's images.
        """
        counts = self.per_class(epoch)
        # Small numbers: sorting them is most of the work otherwise.
        label = np.repeat(np.arange(len(counts), dtype=np.min_scalar_type(len(counts))), counts)
        before = np.cumsum(counts) - counts
        turn = np.arange(len(label)) - before[label] + self.per_class_before(epoch)[label]
        size = np.asarray(self.image_counts, dtype=np.int64)[label]
        walk, index = turn // size, turn % size
        key = _mix(_mix(np.uint64(self.seed) + label.astype(np.uint64)) + walk.astype(np.uint64))
        position = permuted_index(index, size, key)
        # Classes are shuffled, the draws of one class keep their order: its walks must not be mixed.
        shuffled = np.random.default_rng([self.seed, epoch]).permutation(label)
        in_order = np.empty_like(position)
        in_order[np.argsort(shuffled, kind='stable')] = position
        return shuffled.astype(np.int64), in_order

    @cached_property
    def _edges(self) -> np.ndarray:
        """(C + 1,) float64: expected draws of one epoch up to each class, the first 0."""
        edges = np.concatenate([[0.0], np.cumsum(class_probabilities(self.image_counts, self.balance))])
        # Rounding must neither lose the last draw nor give one to an empty class at the end.
        edges[edges >= edges[-1]] = 1.0
        return edges * self.draws_per_epoch

    def _start(self, epoch: int | np.ndarray) -> np.ndarray:
        first = np.random.default_rng(self.seed).random()
        return np.asarray((first + GOLDEN * np.asarray(epoch)) % 1.0)


def permuted_index(index: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Where ``index`` stands in a random permutation of ``range(size)``, without making the permutation.

    A Feistel network permutes the next power of four; an image outside ``range(size)`` is permuted again until it is
    inside (cycle walking: J. Black, P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). Costs the same
    for one million images as for ten, which is what makes an epoch of 1.7 million draws a matter of a second.

    Args:
        index: (N,) int64 in [0, size).
        size: (N,) int64 >= 1.
        key: (N,) uint64; equal (size, key) means the same permutation.

    Returns:
        (N,) int64 in [0, size).
    """
    permuted = np.empty(len(index), dtype=np.int64)
    for first in range(0, len(index), DRAWS_AT_ONCE):
        part = slice(first, first + DRAWS_AT_ONCE)
        permuted[part] = _permuted(index[part], size[part], key[part])
    return permuted


def _permuted(index: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    bits = np.frexp(np.maximum(size - 1, 1).astype(np.float64))[1]  # bit length of size - 1
    half = ((bits + 1) // 2).astype(np.uint64)
    value = index.astype(np.uint64)
    limit = size.astype(np.uint64)
    walking = np.arange(len(value))
    while len(walking):
        value[walking] = _feistel(value[walking], half[walking], key[walking])
        walking = walking[value[walking] >= limit[walking]]
    # A network over a handful of values is a little uneven; turning the result makes every value equally likely.
    return ((value + _mix(~key) % limit) % limit).astype(np.int64)


def _feistel(value: np.ndarray, half: np.ndarray, key: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for step in range(ROUNDS):
        left, right = right, left ^ (_mix(right + key + np.uint64(step << 32)) & mask)
    return (left << half) | right


def _mix(value: np.ndarray) -> np.ndarray:
    """Scrambles 64 bits (the finaliser of SplitMix64: Steele, Lea, Flood, OOPSLA 2014)."""
    with np.errstate(over='ignore'):
        value = (value ^ (value >> np.uint64(30))) * _MIX[0]
        value = (value ^ (value >> np.uint64(27))) * _MIX[1]
    return value ^ (value >> np.uint64(31))


def effective_number_weights(counts: np.ndarray, beta: float) -> np.ndarray:
    """Class weights (1 - β) / (1 - β^n): the inverse of the effective number of samples.

    Cui, Jia, Lin, Song, Belongie, "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, Eq. 2-3 and
    Sec. 4; Table 3 of the paper compares with it.

    Args:
        counts: (C,) samples of each class, n.
        beta: β in [0, 1). 0 weighs all classes alike, towards 1 the weights go to 1 / n.

    Returns:
        (C,) float64, with a mean of 1 over the classes that have samples; 0 for the others.
    """
    if not 0 <= beta < 1:
        raise ValueError(f'beta must be in [0, 1), got {beta}')
    counts = np.asarray(counts, dtype=np.float64)
    present = counts > 0
    weights = np.zeros_like(counts)
    with np.errstate(divide='ignore'):  # log 0 = -inf, which is right: 0 ** n = 0
        weights[present] = (1 - beta) / -np.expm1(counts[present] * np.log(beta))
    return weights / weights[present].mean() if present.any() else weights
