"""The classes of a model, their ancestors and what else a config and a checkpoint tell about them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

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


class ClassBuffer(nn.Module):
    """Base of modules with a buffer by class that both a config and a checkpoint give, such as the rates.

    Training takes the config's, whatever ``load_from`` holds. Testing takes the checkpoint's, so it needs no data
    files, and so does ``--resume`` with :class:`mmoid.ClassOrderCheckHook`. A difference is logged.

    Attributes:
        buffer_name: Name of the buffer.
        rates_from: ``checkpoint``, or ``config`` to keep the config's values in tests and with ``--resume`` too.
        config_wins: Whether the config's values stay when the next checkpoint is loaded.
        missing_files: ``key = path`` of files of the config that do not exist.
        label_names: (C,) MIDs by class index; None if nothing tells them. The checkpoint holds them as bytes.
    """

    buffer_name: str
    rates_from: str = 'checkpoint'
    config_wins = False
    missing_files: Sequence[str] = ()
    label_names: tuple[str, ...] | None = None
    class_names: Tensor | None

    if TYPE_CHECKING:  # else mypy takes every attribute of a head of mmdet for a Tensor or Module

        def __getattr__(self, name: str) -> Any: ...

    def set_class_buffer(self, value: Tensor) -> None:
        """Sets the buffer. Call it when ``label_names`` are known."""
        self.register_buffer(self.buffer_name, value)
        names = '\n'.join(self.label_names or ()).encode()
        self.register_buffer('class_names', torch.tensor(list(names), dtype=torch.uint8) if names else None)

    def require_class_files(self) -> None:
        """Raises AnnotationError if files were missing and no checkpoint has given the buffer."""
        if self.missing_files:
            raise AnnotationError(
                f'{self.missing_files[0]}: no such file, and no checkpoint with the {self.buffer_name} was loaded'
            )

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        key, own = prefix + self.buffer_name, getattr(self, self.buffer_name)
        given = state_dict.get(key)
        names = state_dict.pop(f'{prefix}class_names', None)
        if self.class_names is not None:
            state_dict[f'{prefix}class_names'] = self.class_names
            if names is not None:
                self._require_names(bytes(names.tolist()).decode().split('\n'))
        from_config = self.config_wins and not self.missing_files
        if given is not None and not from_config and given.shape == own.shape:
            self.missing_files = ()
        if given is not None and own.any() and not torch.equal(given.to(own), own):
            message = (
                f'{type(self).__name__}: the {self.buffer_name} of the config and of the checkpoint differ; using '
            )
            message += "the config's" if from_config else "the checkpoint's (loss_cls.rates_from='config' changes that)"
            print_log(message, 'current', logging.INFO if from_config else logging.WARNING)
        if from_config:
            state_dict[key] = own
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.set_class_buffer(getattr(self, self.buffer_name))

    def _require_names(self, names: Sequence[str]) -> None:
        """Raises ValueError if the checkpoint's MIDs are not the config's."""
        label_names = self.label_names or ()
        if len(names) != len(label_names) and self.config_wins:
            return  # fine-tuning on more or fewer classes starts with a new last layer
        for index, (own, other) in enumerate(zip_longest(label_names, names)):
            if own != other:
                raise ValueError(
                    f'the checkpoint has other classes than the config: class {index} is {other} there and {own} here; '
                    'convert it with tools/misc/convert_checkpoint.py'
                )
