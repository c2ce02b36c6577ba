"""Concurrent rates: how often an object of one class is also labelled with another (Sec. 4.1.1 of the paper).

r_ij is the share of the objects of class i that also carry label j. It is not symmetric: every Lady is a Person.
Where r_ij is 1, the concurrent softmax does not let class j suppress class i at all.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.statistics.objects import BoxPairs, LabelSets, label_sets, single_object_pairs
from mmoid.openimages.store.annotation_store import AnnotationStore


@dataclass(frozen=True)
class Concurrence:
    """Counts of labels and label pairs on objects.

    Attributes:
        objects: (C,) int64, objects that carry label i.
        together: (C, C) int64, objects that carry both i and j; the diagonal is 0.
    """

    objects: np.ndarray
    together: np.ndarray

    @property
    def rates(self) -> np.ndarray:
        """(C, C) float32 in [0, 1]: r_ij = #(i and j) / #(i); 0 on the diagonal and for classes without objects."""
        return (self.together / np.maximum(self.objects, 1)[:, None]).astype(np.float32)

    def top_pairs(self, count: int) -> list[tuple[int, int, int]]:
        """The ``count`` most frequent pairs as (i, j, objects), i < j, most frequent first."""
        first, second = np.nonzero(np.triu(self.together))
        together = self.together[first, second]
        best = np.argsort(-together, kind='stable')[:count]
        return [(int(first[k]), int(second[k]), int(together[k])) for k in best]


@dataclass(frozen=True)
class OverlapLevel:
    """What is one object at one IoU threshold.

    Attributes:
        iou_threshold: Boxes that overlap at least so much are one object.
        pairs: Pairs of boxes with IoU >= ``iou_threshold`` and different labels.
        boxes: Boxes that are in such a pair.
        label_sets: Labels of the objects.
        concurrence: Counted on the objects.
    """

    iou_threshold: float
    pairs: int
    boxes: int
    label_sets: LabelSets
    concurrence: Concurrence

    @property
    def label_pairs(self) -> int:
        """Pairs of classes that some object carries both of."""
        return int(np.count_nonzero(np.triu(self.concurrence.together)))


def count_concurrence(store: AnnotationStore, iou_threshold: float = 0.9) -> Concurrence:
    """Counts labels per object over a store. Group-of boxes are left out: they are not one object.

    Args:
        store: The annotations.
        iou_threshold: Boxes of one image that overlap at least so much are one object.
    """
    return count_by_threshold(store, [iou_threshold])[0].concurrence


def count_by_threshold(store: AnnotationStore, iou_thresholds: Sequence[float]) -> list[OverlapLevel]:
    """:func:`count_concurrence` at several thresholds. Boxes are compared once, at the lowest of them.

    Args:
        store: The annotations.
        iou_thresholds: At least one, each in (0, 1].

    Returns:
        One level for each threshold, in the order given.
    """
    single, pairs = single_object_pairs(store.box, store.box_stop, store.is_group_of, min(iou_thresholds))
    return [_level(single, store.box_label, pairs.at(iou), store.num_classes) for iou in iou_thresholds]


def concurrence_of_boxes(
    box: np.ndarray, box_stop: np.ndarray, label: np.ndarray, num_classes: int, iou_threshold: float
) -> Concurrence:
    """:func:`count_concurrence` on arrays: (B, 4) boxes, (N,) ends of images, (B,) class indices."""
    single, pairs = single_object_pairs(box, box_stop, np.zeros(len(box), dtype=np.int8), iou_threshold)
    return concurrence_of_sets(label_sets(single, label, pairs, num_classes))


def concurrence_of_sets(sets: LabelSets) -> Concurrence:
    """:func:`count_concurrence` on the label sets of objects."""
    together = (sets.shared.T @ sets.shared).toarray()
    objects = sets.alone + together.diagonal()
    np.fill_diagonal(together, 0)
    return Concurrence(objects=objects, together=together)


def _level(single: np.ndarray, label: np.ndarray, pairs: BoxPairs, num_classes: int) -> OverlapLevel:
    sets = label_sets(single, label, pairs, num_classes)
    differ = label[pairs.first] != label[pairs.second]
    boxes = np.unique(np.concatenate([pairs.first[differ], pairs.second[differ]]))
    return OverlapLevel(pairs.least_iou, int(differ.sum()), len(boxes), sets, concurrence_of_sets(sets))


def save_rates(path: str | Path, rates: np.ndarray, label_names: tuple[str, ...]) -> None:
    """Writes ``rates`` float32 (C, C) and ``label_names`` (C,) as ``.npz``, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.writing-{os.getpid()}')
    try:
        with open(temporary, 'wb') as stream:
            np.savez_compressed(stream, rates=rates.astype(np.float32), label_names=np.array(label_names))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_rates(path: str | Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads what :func:`save_rates` wrote.

    Raises:
        AnnotationError: No such file or no ``.npz``, arrays missing, not square, not in [0, 1], or names that do not
            fit or occur twice.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            rates, label_names = arrays['rates'], tuple(str(name) for name in arrays['label_names'])
        rates = np.asarray(rates, dtype=np.float32)
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise AnnotationError(
            f'{path}: cannot be read as concurrent rates ({error}); make it with tools/analysis_tools/concurrent_rates.py'
        ) from error
    if len(set(label_names)) < len(label_names):
        raise AnnotationError(f'{path}: label_names holds {max(label_names, key=label_names.count)!r} twice')
    if rates.shape != (len(label_names), len(label_names)):
        raise AnnotationError(f'{path}: rates have shape {rates.shape} for {len(label_names)} label_names')
    if not ((rates >= 0) & (rates <= 1)).all():
        raise AnnotationError(f'{path}: rates must be in [0, 1], found {rates.min():g} to {rates.max():g}')
    return rates, label_names
