"""Groups of classes, whose mAP tells what the mAP over all classes hides: rare or frequent, leaf or parent, level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.metric.average_precision import mean_average_precision
from mmoid.openimages.readers.csv_files import line_of_row, read_columns, require_rows
from mmoid.openimages.sampling.coverage import head_middle_tail
from mmoid.openimages.store.annotation_store import AnnotationStore

FREQUENCIES = ('head', 'middle', 'tail')
UNTRAINED = 'untrained'


@dataclass(frozen=True, eq=False)
class ClassGroup:
    """Some of the classes: a name for tables and log keys, what it means in words, (n,) class indices."""

    name: str
    meaning: str
    labels: np.ndarray


@dataclass(frozen=True)
class GroupScore:
    """The mAP of a group.

    Attributes:
        name: Of the group.
        meaning: In words.
        num_classes: In the group.
        num_evaluated: Of these, those with ground truth, over which the mean is.
        mean_ap: NaN where none has ground truth.
    """

    name: str
    meaning: str
    num_classes: int
    num_evaluated: int
    mean_ap: float


def class_groups(hierarchy: ClassHierarchy | None, train_images: np.ndarray | None) -> list[ClassGroup]:
    """All groups that can be told; None: not given. Groups without any class are left out."""
    groups = [] if train_images is None else frequency_groups(train_images)
    return groups if hierarchy is None else groups + hierarchy_groups(hierarchy)


def frequency_groups(train_images: np.ndarray) -> list[ClassGroup]:
    """A third each of the classes that occur in training, most frequent first, and those that do not occur there.

    Args:
        train_images: (C,) int training images of each class.
    """
    groups = [
        ClassGroup(name, f'{train_images[labels].min():,} to {train_images[labels].max():,} training images', labels)
        for name, labels in zip(FREQUENCIES, head_middle_tail(train_images))
        if len(labels)
    ]
    absent = np.flatnonzero(train_images == 0)
    return groups + ([ClassGroup(UNTRAINED, 'no training image', absent)] if len(absent) else [])


def hierarchy_groups(hierarchy: ClassHierarchy) -> list[ClassGroup]:
    """Leaves, parents, and the levels: ``level1`` lies right below the root, a class counts by its longest path."""
    is_leaf, depth = hierarchy.is_leaf, hierarchy.depth
    groups = [
        ClassGroup('leaf', 'classes without descendants', np.flatnonzero(is_leaf)),
        ClassGroup('parent', 'classes with descendants', np.flatnonzero(~is_leaf)),
    ]
    for level in range(1, int(depth.max(initial=0)) + 1):
        groups.append(ClassGroup(f'level{level}', f'{level} below the root', np.flatnonzero(depth == level)))
    return [group for group in groups if len(group.labels)]


def score_groups(groups: Sequence[ClassGroup], ap: np.ndarray) -> tuple[GroupScore, ...]:
    """The mAP of each group from (C,) AP, NaN for classes without ground truth."""
    return tuple(
        GroupScore(
            name=group.name,
            meaning=group.meaning,
            num_classes=len(group.labels),
            num_evaluated=int((~np.isnan(ap[group.labels])).sum()),
            mean_ap=mean_average_precision(ap[group.labels]),
        )
        for group in groups
    )


def class_columns(hierarchy: ClassHierarchy | None, train_images: np.ndarray | None) -> Mapping[str, pa.Array]:
    """Columns that tell the groups of each class, C rows: train_images, frequency; level, leaf."""
    columns: dict[str, pa.Array] = {}
    if train_images is not None:
        frequency = np.empty(len(train_images), dtype=object)
        for group in frequency_groups(train_images):
            frequency[group.labels] = group.name
        columns |= {'train_images': pa.array(train_images), 'frequency': pa.array(frequency, pa.string())}
    if hierarchy is not None:
        columns |= {'level': pa.array(hierarchy.depth), 'leaf': pa.array(hierarchy.is_leaf)}
    return columns


def train_image_counts(path: str | Path, label_names: Sequence[str], expand_hierarchy: bool = True) -> np.ndarray:
    """(C,) int64: how many training images hold each class.

    Args:
        path: The store of the training split, or a CSV with the columns ``LabelName`` and ``images``.
        label_names: MIDs of the C classes.
        expand_hierarchy: Count an image for the ancestors of its classes too. A CSV is taken as it is.

    Raises:
        AnnotationError: A class that is not there, a count that is negative, a file that is neither.
    """
    if Path(path).is_dir():
        store = AnnotationStore(path)
        names, counts = store.label_names, store.class_image_counts(expand_hierarchy)
    else:
        names, counts = _read_counts(path)
    number = {name: i for i, name in enumerate(names)}
    missing = [name for name in label_names if name not in number]
    if missing:
        raise AnnotationError(
            f'{path}: does not have {len(missing)} of the {len(label_names)} classes, first {missing[0]!r}; '
            'give the training split of these classes (a class that never occurs has 0 images)'
        )
    return np.asarray(counts[[number[name] for name in label_names]], dtype=np.int64)


def _read_counts(path: str | Path) -> tuple[tuple[str, ...], np.ndarray]:
    table = read_columns(path, {'LabelName': pa.string(), 'images': pa.int64()})
    names, counts = tuple(table['LabelName'].to_pylist()), table['images'].to_numpy()
    require_rows(path, table, counts >= 0, 'images = {images} is negative')
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    twice = [row for row, name in enumerate(names) if first[name] != row]
    if twice:
        name, line = names[twice[0]], line_of_row(path, twice[0])
        raise AnnotationError(f'{path}:{line}: class {name!r} stands on line {line_of_row(path, first[name])} already')
    return names, counts
