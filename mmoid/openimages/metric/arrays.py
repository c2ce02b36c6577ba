"""Checks of array arguments: each returns the one form that the metric computes with, or says what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmoid.openimages.errors import AnnotationError


def index_column(name: str, values: Any, bound: int, length: int | None = None) -> np.ndarray:
    """Values as (N,) int64, each in [0, bound). Raises AnnotationError for anything else; so do the others."""
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise AnnotationError(f'{name}: expects integers, got {array.dtype}')
    array = array.astype(np.int64, copy=False)
    _require_column(name, array, length)
    require_rows(name, array, (array >= 0) & (array < bound), f'0 <= index < {bound}')
    return array


def float_column(name: str, values: Any, length: int | None = None) -> np.ndarray:
    """Values as (N,) float64."""
    array = np.asarray(values, dtype=np.float64)
    _require_column(name, array, length)
    return array


def box_column(name: str, values: Any, length: int) -> np.ndarray:
    """Values as (N, 4) float64; an empty list counts as no boxes."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape == (0,):
        array = array.reshape(0, 4)
    if array.shape != (length, 4):
        raise AnnotationError(f'{name}: expects shape ({length}, 4), got {array.shape}')
    return array


def require_rows(name: str, values: np.ndarray, valid: np.ndarray, expected: str) -> None:
    """Names the first row that is not valid."""
    if not valid.all():
        row = int(np.argmin(valid))
        raise AnnotationError(f'{name}[{row}]: expects {expected}, got {values[row]}')


def _require_column(name: str, array: np.ndarray, length: int | None) -> None:
    if array.ndim != 1:
        raise AnnotationError(f'{name}: expects one dimension, got shape {array.shape}')
    if length is not None and len(array) != length:
        raise AnnotationError(f'{name}: expects {length} values, got {len(array)}')
