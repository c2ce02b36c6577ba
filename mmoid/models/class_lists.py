"""The classes of a model and their ancestors, from the values that a config may give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from mmoid.openimages.classes import require_unique
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.store.annotation_store import AnnotationStore

Hierarchy: TypeAlias = 'str | Path | np.ndarray | torch.Tensor | Sequence[Sequence[bool]]'


def label_names_of(hierarchy: Hierarchy | None, classes: Sequence[str] | None, key: str) -> tuple[str, ...] | None:
    """MIDs by class index, if the config tells them.

    Args:
        hierarchy: A store tells them; a JSON file and a matrix do not.
        classes: (C,) MIDs or display names, for a data set with some of the store's classes (``metainfo.classes``).
            Display names need a store.
        key: Config key for error messages.

    Returns:
        (C,) MIDs. None if nothing tells them, as with display names and a store that does not exist: testing a model
        does not need the store, and training reports it.

    Raises:
        ValueError: ``classes`` is not a list, holds a class twice or a name without a store.
        AnnotationError: A class that the store does not have.
    """
    path = Path(hierarchy) if isinstance(hierarchy, (str, Path)) else None
    store = AnnotationStore(path) if path and path.is_dir() else None
    if classes is None:
        return store.label_names if store else None
    if isinstance(classes, str):
        raise ValueError(f'{key}.classes: expects a list of names or MIDs, got {classes!r}')
    if store:
        indices = store.classes.indices(classes, f'{key}.classes')
        label_names = tuple(store.label_names[i] for i in indices)
    else:
        label_names = tuple(classes)
        names = [name for name in classes if not name.startswith('/')]
        if names and path and not path.exists():
            return None
        if names:
            raise ValueError(f'{key}.classes: {names[0]!r} is not a MID; a display name needs a store as hierarchy')
    require_unique(label_names, f'{key}.classes')
    return label_names


def is_missing(source: object) -> bool:
    """Whether a config value is a path that does not exist. Testing a model does not need its files."""
    return isinstance(source, (str, Path)) and not Path(source).exists()


def ancestor_matrix(hierarchy: Hierarchy, num_classes: int, label_names: Sequence[str] | None, key: str) -> np.ndarray:
    """Ancestors by class index.

    Args:
        hierarchy: A prepared store (folder), the official JSON file, or a (C, C) matrix that is true at [i, j] if j is
            an ancestor of i.
        num_classes: C.
        label_names: (C,) MIDs by class index. None: those of the store; a JSON file has no order of classes.
        key: Config key for error messages.

    Returns:
        (C, C) bool. For some of the store's classes, ancestry through the other classes is kept.

    Raises:
        AnnotationError: A file that does not exist, or does not hold the classes.
        ValueError: A matrix of another shape, a JSON file without ``label_names``.
    """
    if not isinstance(hierarchy, (str, Path)):
        matrix = np.asarray(hierarchy).astype(bool)
    elif not Path(hierarchy).exists():
        raise AnnotationError(f'{key} = {hierarchy}: no such store or file')
    elif Path(hierarchy).is_dir():
        store = AnnotationStore(hierarchy)
        tree = store.metadata['hierarchy']
        matrix = ClassHierarchy(tree, label_names or store.label_names, source=str(hierarchy)).ancestor_matrix
    elif label_names is None:
        raise ValueError(
            f'{key} = {hierarchy}: a JSON file gives no order of classes; give a prepared store, or concurrent_rates, '
            'whose label_names give the order'
        )
    else:
        matrix = ClassHierarchy.from_json(hierarchy, label_names).ancestor_matrix
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f'{key}: expects a square ancestor matrix, got shape {matrix.shape}')
    if len(matrix) != num_classes:
        raise ValueError(
            f'{key}: is for {len(matrix)} classes, num_classes is {num_classes}; for a data set with some of the '
            'classes, give their names as classes = [...]'
        )
    return matrix
