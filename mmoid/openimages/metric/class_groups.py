"""Groups of classes with an mAP of their own: frequent or rare, leaf or parent, level of the hierarchy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmoid.openimages.classes import ClassNames, require_unique
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.readers.csv_files import read_columns, require_rows
from mmoid.openimages.sampling.coverage import head_middle_tail
from mmoid.openimages.store.annotation_store import AnnotationStore


@dataclass(frozen=True, eq=False)
class ClassGroup:
    """Some of the classes."""

    name: str  # for tables and log keys: ``head``, ``leaf``, ``level1``
    meaning: str
    labels: np.ndarray  # (n,) class indices


def class_groups(hierarchy: ClassHierarchy | None, train_images: np.ndarray | None) -> list[ClassGroup]:
    """Rare, common and frequent classes; head, middle, tail and untrained; leaves and parents; levels.

    Empty groups are left out.

    Args:
        hierarchy: Level 1 lies right below the root. A class with several parents counts by its longest path. None:
            no groups by hierarchy.
        train_images: (C,) int training images of each class. Head, middle and tail are a third each of the classes
            that occur in training, most frequent first. Rare, common and frequent are the groups of LVIS. None: no
            groups by frequency.
    """
    groups = []
    if train_images is not None:
        for name, meaning, least, most in (
            ('rare', '1 to 10 training images', 1, 10),
            ('common', '11 to 100 training images', 11, 100),
            ('frequent', 'more than 100 training images', 101, np.inf),
        ):
            groups.append(ClassGroup(name, meaning, np.flatnonzero((train_images >= least) & (train_images <= most))))
        for name, labels in zip(('head', 'middle', 'tail'), head_middle_tail(train_images)):
            counts = train_images[labels]
            meaning = f'{counts.min():,} to {counts.max():,} training images' if len(labels) else ''
            groups.append(ClassGroup(name, meaning, labels))
        groups.append(ClassGroup('untrained', 'no training image', np.flatnonzero(train_images == 0)))
    if hierarchy is not None:
        is_leaf, depth = hierarchy.is_leaf, hierarchy.depth
        groups.append(ClassGroup('leaf', 'classes without descendants', np.flatnonzero(is_leaf)))
        groups.append(ClassGroup('parent', 'classes with descendants', np.flatnonzero(~is_leaf)))
        for level in range(1, int(depth.max(initial=0)) + 1):
            groups.append(ClassGroup(f'level{level}', f'{level} below the root', np.flatnonzero(depth == level)))
    return [group for group in groups if len(group.labels)]


def class_columns(hierarchy: ClassHierarchy | None, train_images: np.ndarray | None) -> dict[str, pa.Array]:
    """Table columns of C rows with the groups of each class: train_images, frequency; level, leaf."""
    columns: dict[str, pa.Array] = {}
    if train_images is not None:
        frequency = np.empty(len(train_images), dtype=object)
        for group in class_groups(None, train_images):  # the thirds come last
            frequency[group.labels] = group.name
        columns |= {'train_images': pa.array(train_images), 'frequency': pa.array(frequency, pa.string())}
    if hierarchy is not None:
        columns |= {'level': pa.array(hierarchy.depth), 'leaf': pa.array(hierarchy.is_leaf)}
    return columns


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
