"""Picks one row of every cell so that the sum of the picked rows comes close to a target.

Moves of best improvement, in rounds of array operations. All arithmetic is in integers: the same input gives the same
picks on every machine.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from mmoid.openimages.ragged import row_and_position

MOST_MOVES = 512
LEAST_MOVES = 32
ROUNDS = 2000


def pick_one_of_each(rows: csr_matrix, cell_sizes: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Lowers the squared distance between the sum of the picked rows and the target.

    A move picks another row of one cell. Each round takes the best moves of all cells by what each would gain alone,
    applies them one after the other in thought, and keeps as many as give the least distance: moves that mend the same
    column overshoot together, which only the sum shows. Ends where no single move is an improvement.

    Args:
        rows: (R, F) integers, the cells one after the other.
        cell_sizes: (K,) rows of each cell, at least 1 each. The first row of a cell is picked at the start.
        target: (F,) integers.

    Returns:
        (K,) int64 picked row of each cell.
    """
    rows = rows.astype(np.int64)
    target = np.asarray(target, dtype=np.int64)
    cell, _ = row_and_position(cell_sizes)
    begin = np.cumsum(cell_sizes) - cell_sizes
    picked = begin.copy()
    off = _sum(rows[picked]) - target
    norm = _row_sums(rows.multiply(rows))
    apart = _squared_distance(rows, norm, np.arange(len(cell)), picked[cell])
    moves = MOST_MOVES
    for _ in range(ROUNDS):
        along = rows @ off
        # |off + row - picked row|^2 - |off|^2
        change = apart + 2 * (along - along[picked][cell])
        best = _best_moves(change, cell, moves)
        if not len(best):
            break
        steps = (rows[best] - rows[picked[cell[best]]]).toarray()
        path = off + np.cumsum(steps, axis=0)
        count = int((path * path).sum(axis=1).argmin()) + 1
        off = path[count - 1]
        moved = cell[best[:count]]
        picked[moved] = best[:count]
        where, position = row_and_position(cell_sizes[moved])
        renewed = begin[moved][where] + position
        apart[renewed] = _squared_distance(rows, norm, renewed, picked[moved][where])
        moves = min(MOST_MOVES, max(LEAST_MOVES, 2 * count))
    return picked


def _best_moves(change: np.ndarray, cell: np.ndarray, count: int) -> np.ndarray:
    """Up to ``count`` rows of lowest negative change, lowest first, the best one of each cell.

    Ties go by row index, which ``np.argpartition`` would leave to the machine.
    """
    low = np.flatnonzero(change < 0)
    if len(low) > count:
        low = low[change[low] <= np.partition(change[low], count)[count]]
    low = low[np.argsort(change[low], kind='stable')][:count]
    _, first = np.unique(cell[low], return_index=True)
    return low[np.sort(first)]


def _squared_distance(rows: csr_matrix, norm: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return norm[first] + norm[second] - 2 * _row_sums(rows[first].multiply(rows[second]))


def _row_sums(matrix: csr_matrix) -> np.ndarray:
    return np.asarray(matrix.sum(axis=1), dtype=np.int64).ravel()


def _sum(matrix: csr_matrix) -> np.ndarray:
    return np.asarray(matrix.sum(axis=0), dtype=np.int64).ravel()
