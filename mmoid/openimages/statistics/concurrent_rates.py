"""Concurrent rates: how often an object of one class also has the label of another (Sec. 4.1.1 of the paper).

r_ij = #(objects labelled i and j) / #(objects labelled i). It is not symmetric: every Lady is a Person. Where r_ij is
1, the concurrent softmax does not let class j suppress class i at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array, csr_array, tril, triu

from mmoid.openimages.classes import require_unique
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.statistics.objects import labels_of_objects, number_objects, object_pairs, require_threshold
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.atomic import atomic_write
from mmoid.utils.progress import Progress, no_progress

ROUNDING = 1e-5
"""By which rates of other tools may leave [0, 1]."""


def without_diagonal(matrix: csr_array) -> csr_array:
    """The same with zeros on the diagonal."""
    return csr_array(tril(matrix, -1) + triu(matrix, 1))


def most_frequent_pairs(counts: np.ndarray | csr_array, number: int) -> list[tuple[int, int, int]]:
    """The ``number`` largest entries of (C, C) counts as (row, column, count), largest first."""
    pairs = coo_array(counts)
    best = np.lexsort((pairs.col, pairs.row, -pairs.data))[:number]
    return list(zip(pairs.row[best].tolist(), pairs.col[best].tolist(), pairs.data[best].tolist()))


@dataclass(frozen=True)
class Concurrence:
    """Counts of labels and label pairs on objects.

    Examples:
        >>> Concurrence(np.array([4, 2]), csr_array([[0, 2], [2, 0]])).rates.toarray()
        array([[0. , 0.5],
               [1. , 0. ]], dtype=float32)
    """

    objects: np.ndarray  # (C,) int64, number of objects with label i
    together: csr_array  # (C, C) int64, number of objects with both i and j; the diagonal is 0

    @property
    def rates(self) -> csr_array:
        """(C, C) float32 in [0, 1]: r_ij; 0 on the diagonal and for classes without objects."""
        pairs = self.together.tocoo()
        rates = (pairs.data / self.objects[pairs.row]).astype(np.float32)
        return csr_array((rates, (pairs.row, pairs.col)), pairs.shape)

    def top_pairs(self, count: int) -> list[tuple[int, int, int]]:
        """The ``count`` most frequent pairs as (i, j, objects), i < j, most frequent first."""
        return most_frequent_pairs(triu(self.together), count)


@dataclass(frozen=True)
class OverlapLevel:
    """The objects at one IoU threshold."""

    iou_threshold: float  # boxes with at least this IoU are on one object
    pairs: int  # of boxes, with at least this IoU and different labels
    boxes: int  # in such a pair
    labels: csr_array  # (O, C) bool: whether an object has the label
    concurrence: Concurrence

    @property
    def label_pairs(self) -> int:
        """Number of class pairs that occur on some object."""
        return int(triu(self.concurrence.together).nnz)


def count_concurrence(store: AnnotationStore, iou_threshold: float = 0.9) -> Concurrence:
    """Counts the labels of each object of a store, see :mod:`mmoid.openimages.statistics.objects`."""
    return count_by_threshold(store, [iou_threshold])[0].concurrence


def count_by_threshold(
    store: AnnotationStore, iou_thresholds: Sequence[float], progress: Progress = no_progress
) -> list[OverlapLevel]:
    """:func:`count_concurrence` at several thresholds, each in (0, 1]; boxes are compared only once."""
    for iou_threshold in iou_thresholds:
        require_threshold(iou_threshold)
    least = min(iou_thresholds)
    first, second, iou = object_pairs(store.box, store.box_stop, store.is_group_of, least, progress)
    levels = {at: _level(store, at, first[iou >= at], second[iou >= at]) for at in set(iou_thresholds)}
    return [levels[iou_threshold] for iou_threshold in iou_thresholds]


def _level(store: AnnotationStore, iou_threshold: float, first: np.ndarray, second: np.ndarray) -> OverlapLevel:
    label = store.box_label
    labels = labels_of_objects(number_objects(store.is_group_of, first, second), label, store.num_classes)
    several = labels[np.diff(labels.indptr) > 1].astype(np.int64)  # about one object in fifty
    together = without_diagonal(csr_array(several.T @ several))
    objects = np.bincount(labels.indices, minlength=store.num_classes)
    differ = label[first] != label[second]
    boxes = np.unique(np.concatenate([first[differ], second[differ]]))
    return OverlapLevel(iou_threshold, int(differ.sum()), len(boxes), labels, Concurrence(objects, together))


def save_rates(path: str | Path, rates: np.ndarray | csr_array, label_names: tuple[str, ...]) -> None:
    """Writes the P non-zero values of (C, C) rates as ``.npz``, atomically.

    The file holds ``rates`` (P,) float32, ``pairs`` (2, P) int32, which are i and j, and ``label_names`` (C,).
    """
    entries = coo_array(rates)
    pairs = np.stack([entries.row, entries.col]).astype(np.int32)
    with atomic_write(path) as temporary, open(temporary, 'wb') as stream:
        values = entries.data.astype(np.float32)
        np.savez_compressed(stream, rates=values, pairs=pairs, label_names=np.array(label_names))


def load_rates(path: str | Path) -> tuple[csr_array, tuple[str, ...]]:
    """Reads a file of :func:`save_rates`: (C, C) float32 rates and C label names (MIDs).

    A file without ``pairs``, as version 0.1 wrote it, has (C, C) ``rates``.

    Raises:
        AnnotationError: The file is missing or not a ``.npz`` file of valid rates.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            rates, label_names = arrays['rates'], tuple(str(name) for name in arrays['label_names'])
            if 'pairs' in arrays:
                rates = coo_array((rates, tuple(arrays['pairs'])), (len(label_names), len(label_names)))
        rates = csr_array(rates, dtype=np.float32)
    except Exception as error:  # numpy, zipfile and zlib have a dozen kinds of them for damaged bytes
        remedy = 'make it with mmoid rates'
        raise AnnotationError(f'{path}: cannot be read as concurrent rates ({error}); {remedy}') from error
    require_unique(label_names, f'{path}: label_names')
    if rates.shape != (len(label_names), len(label_names)):
        raise AnnotationError(f'{path}: rates have shape {rates.shape} for {len(label_names)} label_names')
    valid = (rates.data >= -ROUNDING) & (rates.data <= 1 + ROUNDING)  # not NaN
    if not valid.all():
        raise AnnotationError(f'{path}: rates must be in [0, 1], found {rates.data[np.argmin(valid)]}')
    rates.data = np.clip(rates.data, 0, 1)
    return rates, label_names
