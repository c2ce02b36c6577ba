"""Classes, their order and their ancestors for models, from whatever a config gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.store.annotation_store import AnnotationStore

Hierarchy: TypeAlias = 'str | Path | np.ndarray | torch.Tensor | Sequence[Sequence[bool]]'


def label_names_of(hierarchy: Hierarchy | None, classes: Sequence[str] | None, key: str) -> tuple[str, ...] | None:
    """MIDs by class index, as far as a config tells them.

    Args:
        hierarchy: A store tells them; a JSON file and a matrix do not.
        classes: Names or MIDs by class index, for a data set with a part of the classes (``metainfo.classes``). Names
            need a store to know them by.
        key: Config key to name in errors.

    Returns:
        (C,) MIDs; None where nothing tells them, such as names beside a store that is not there: whoever needs the
        store will say so, and testing a model does not need it.

    Raises:
        AnnotationError: ``classes`` is not a list, has one twice, one that the store does not know, or a name without
            a store.
    """
    is_path = isinstance(hierarchy, (str, Path))
    store = AnnotationStore(str(hierarchy)) if is_path and Path(str(hierarchy)).is_dir() else None
    if classes is None:
        return store.label_names if store else None
    if isinstance(classes, str):
        raise AnnotationError(f'{key}.classes: expects a list of names or MIDs, got {classes!r}')
    if is_path and not Path(str(hierarchy)).exists():
        return tuple(classes) if all(name.startswith('/') for name in classes) else None
    known = dict(zip(store.class_names, store.label_names)) if store else {}
    names = set(store.label_names) if store else {name for name in classes if name.startswith('/')}
    unknown = [name for name in classes if name not in known and name not in names]
    if unknown:
        where = f'is no class of {hierarchy}' if store else 'is no MID; a name needs a store as hierarchy'
        raise AnnotationError(f'{key}.classes: {unknown[0]!r} {where}')
    label_names = tuple(known.get(name, name) for name in classes)
    if len(set(label_names)) < len(label_names):
        raise AnnotationError(f'{key}.classes: {max(label_names, key=label_names.count)!r} is given twice')
    return label_names


def ancestor_matrix(
    hierarchy: Hierarchy, num_classes: int, label_names: Sequence[str] | None = None, key: str = 'hierarchy'
) -> np.ndarray:
    """Ancestors by class index.

    Args:
        hierarchy: A prepared store (folder), the official JSON file, or a (C, C) matrix that is true at [i, j] where
            j is an ancestor of i.
        num_classes: C.
        label_names: MIDs by class index. A store has its own; a JSON file has none. With a part of the classes
            ancestry through the others is kept.
        key: Config key to name in errors.

    Returns:
        (C, C) bool.

    Raises:
        AnnotationError: A file that is not there or does not fit, a wrong shape, no order of classes.
    """
    if not isinstance(hierarchy, (str, Path)):
        matrix = np.asarray(hierarchy).astype(bool)
    elif not Path(hierarchy).exists():
        raise AnnotationError(f'{key} = {hierarchy}: no such store or file')
    elif Path(hierarchy).is_dir():
        store = AnnotationStore(hierarchy)
        tree, names = store.metadata['hierarchy'], label_names or store.label_names
        matrix = ClassHierarchy(tree, names, source=str(hierarchy)).ancestor_matrix
    elif label_names is None:
        raise AnnotationError(
            f'{key} = {hierarchy}: a hierarchy JSON names classes but gives no order of them; give a prepared store '
            '(folder), or concurrent_rates, whose label_names tell the order'
        )
    else:
        matrix = ClassHierarchy.from_json(hierarchy, label_names).ancestor_matrix
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise AnnotationError(f'{key}: an ancestor matrix is square, got shape {matrix.shape}')
    if len(matrix) != num_classes:
        raise AnnotationError(
            f'{key}: is for {len(matrix)} classes, num_classes is {num_classes}; name the classes of a data set '
            'that has a part of them by classes = […]'
        )
    return matrix
