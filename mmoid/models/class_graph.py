"""Ancestor matrices for models, from whatever a config gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.store import AnnotationStore

Hierarchy: TypeAlias = 'str | Path | np.ndarray | torch.Tensor | Sequence[Sequence[bool]]'


def hierarchy_label_names(hierarchy: Hierarchy | None) -> tuple[str, ...] | None:
    """Class order that ``hierarchy`` itself tells: that of a store; a JSON file and a matrix tell none."""
    if isinstance(hierarchy, (str, Path)) and Path(hierarchy).is_dir():
        return AnnotationStore(hierarchy).label_names
    return None


def ancestor_matrix(
    hierarchy: Hierarchy, num_classes: int, label_names: Sequence[str] | None = None, key: str = 'hierarchy'
) -> np.ndarray:
    """Ancestors by class index.

    Args:
        hierarchy: A prepared store (folder), the official JSON file, or a (C, C) matrix that is true at [i, j] where
            j is an ancestor of i.
        num_classes: C.
        label_names: MIDs by class index; needed for a JSON file, which has no order of its own.
        key: Config key to name in errors.

    Returns:
        (C, C) bool.

    Raises:
        AnnotationError: A file that is not there or does not fit, a wrong shape, no order of classes.
    """
    if isinstance(hierarchy, (str, Path)):
        if not Path(hierarchy).exists():
            raise AnnotationError(f'{key} = {hierarchy}: no such store or file')
        label_names = hierarchy_label_names(hierarchy) or label_names
        if label_names is None:
            raise AnnotationError(
                f'{key} = {hierarchy}: a hierarchy JSON names classes but gives no order of them; give a prepared '
                'store (folder), or concurrent_rates, whose label_names tell the order'
            )
        if Path(hierarchy).is_dir():
            matrix = AnnotationStore(hierarchy).hierarchy.ancestor_matrix
        else:
            matrix = ClassHierarchy.from_json(hierarchy, label_names).ancestor_matrix
    else:
        matrix = np.asarray(hierarchy).astype(bool)
    if matrix.shape != (num_classes, num_classes):
        raise AnnotationError(f'{key}: is for {matrix.shape[0]} classes, num_classes is {num_classes}')
    return matrix
