"""Rows of differing length that lie one after the other in flat arrays."""

from __future__ import annotations

import numpy as np


def row_and_position(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which row every element belongs to, and which of the row's elements it is.

    Args:
        lengths: (R,) elements of each row.

    Returns:
        Two (sum of lengths,) int64 arrays: row index, and position from 0 within the row.
    """
    row = np.repeat(np.arange(len(lengths)), lengths)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
