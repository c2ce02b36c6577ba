"""Rows of different lengths, concatenated in flat arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def row_and_position(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row of every element, and its position from 0 within the row, both int64. ``lengths`` is (R,)."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def gather_rows(stop: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Elements of some rows, row after row.

    Args:
        stop: (R,) end of each row's elements.
        chosen: (n,) row indices, in any order; -1 is a row without elements.

    Returns:
        (n,) int64 lengths, and (sum of lengths,) int64 indices of the elements.
    """
    counts = row_lengths(stop, chosen)
    row, position = row_and_position(counts)
    return counts, stop[chosen[row]] - counts[row] + position


def row_lengths(stop: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(n,) int64 elements of some rows; arguments of :func:`gather_rows`."""
    lengths = np.append(np.diff(stop, prepend=0), 0)  # the last is that of row -1
    return lengths[chosen]


def runs_of_rows(lengths: np.ndarray, elements_at_once: int) -> Iterator[tuple[int, int]]:
    """Cuts rows into runs ``first, last`` of at most ``elements_at_once`` elements; a longer row is its own run."""
    done = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        budget = elements_at_once + (done[first - 1] if first else 0)
        last = max(first + 1, int(np.searchsorted(done, budget, side='right')))
        yield first, last
        first = last
