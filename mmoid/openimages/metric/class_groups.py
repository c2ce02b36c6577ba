"""Groups of classes with an mAP of their own: frequent or rare, leaf or parent, level of the hierarchy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmoid.openimages.classes import ClassNames, require_unique
from mmoid.openimages.metric.annotations import Annotations
from mmoid.openimages.readers.csv_files import read_columns, require_rows
from mmoid.openimages.sampling.coverage import head_middle_tail
from mmoid.openimages.store.annotation_store import NOT_EXHAUSTIVE, AnnotationStore


@dataclass(frozen=True, eq=False)
class ClassGroup:
    """Some of the classes."""

    name: str  # for tables and log keys: ``head``, ``leaf``, ``level1``
    meaning: str
    labels: np.ndarray  # (n,) class indices


def class_groups(annotations: Annotations, train_images: np.ndarray | None) -> list[ClassGroup]:
    """Groups of classes by frequency (given ``train_images``), then leaves and parents, and levels of the hierarchy.

    By frequency: head, middle and tail, a third each of the classes that occur in training, most frequent first. For
    LVIS, whose annotations are not exhaustive: its rare (1 to 10 images), common (to 100) and frequent classes. Then
    untrained classes. Level 1 lies right below the root; a class with several parents counts by its longest path.
    Empty groups are left out.

    Args:
        annotations: Of the evaluation set.
        train_images: (C,) int training images of each class; None: no groups by frequency.
    """
    groups = []
    if train_images is not None:
        for name, labels in _by_frequency(annotations, train_images).items():
            counts = train_images[labels]
            meaning = f'{counts.min():,} to {counts.max():,} training images' if counts.any() else 'no training image'
            groups.append(ClassGroup(name, meaning, labels))
    if annotations.hierarchy is not None:
        is_leaf, depth = annotations.hierarchy.is_leaf, annotations.hierarchy.depth
        groups.append(ClassGroup('leaf', 'classes without descendants', np.flatnonzero(is_leaf)))
        groups.append(ClassGroup('parent', 'classes with descendants', np.flatnonzero(~is_leaf)))
        for level in range(1, int(depth.max(initial=0)) + 1):
            groups.append(ClassGroup(f'level{level}', f'{level} below the root', np.flatnonzero(depth == level)))
    return [group for group in groups if len(group.labels)]


def class_columns(annotations: Annotations, train_images: np.ndarray | None) -> dict[str, pa.Array]:
    """Table columns of C rows with the groups of each class: train_images, frequency; level, leaf."""
    columns: dict[str, pa.Array] = {}
    if train_images is not None:
        frequency = np.empty(len(train_images), dtype=object)
        for name, labels in _by_frequency(annotations, train_images).items():
            frequency[labels] = name
        columns |= {'train_images': pa.array(train_images), 'frequency': pa.array(frequency, pa.string())}
    if annotations.hierarchy is not None:
        columns |= {'level': pa.array(annotations.hierarchy.depth), 'leaf': pa.array(annotations.hierarchy.is_leaf)}
    return columns


def _by_frequency(annotations: Annotations, train_images: np.ndarray) -> dict[str, np.ndarray]:
    """Class indices by group. Each class is in one of them."""
    if (annotations.label_confidence == NOT_EXHAUSTIVE).any():
        group = np.digitize(train_images, (1, 11, 101))
        parts = {name: np.flatnonzero(group == k) for k, name in enumerate(('rare', 'common', 'frequent'), 1)}
    else:
        parts = dict(zip(('head', 'middle', 'tail'), head_middle_tail(train_images)))
    return {**parts, 'untrained': np.flatnonzero(train_images == 0)}


def train_image_counts(path: str | Path, label_names: Sequence[str], expand_hierarchy: bool = True) -> np.ndarray:
    """Number of training images of each class.

    Args:
        path: Store of the training split, or a CSV with the columns ``LabelName`` and ``images``.
        label_names: MIDs of the C classes.
        expand_hierarchy: Count an image for the ancestors of its classes too. A CSV is taken as it is.

    Returns:
        (C,) int64.

    Raises:
        AnnotationError: A class that is missing or occurs twice, a negative count, a file that is neither.
    """
    if Path(path).is_dir():
        store = AnnotationStore(path)
        names, counts = store.label_names, store.class_image_counts(expand_hierarchy)
    else:
        table = read_columns(path, {'LabelName': pa.string(), 'images': pa.int64()})
        names, counts = tuple(table['LabelName'].to_pylist()), table['images'].to_numpy()
        require_rows(path, table, counts >= 0, 'images = {images} is negative')
        require_unique(names, str(path))
    counts_of: np.ndarray = counts[ClassNames(names, source=str(path)).indices(label_names, 'classes')]
    return counts_of.astype(np.int64)
