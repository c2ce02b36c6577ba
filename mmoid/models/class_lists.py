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
from scipy.sparse import csr_array
from torch import Tensor, nn

from mmoid.openimages.classes import require_unique
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.store.annotation_store import AnnotationStore

Hierarchy: TypeAlias = 'str | Path | np.ndarray | torch.Tensor | Sequence[Sequence[bool]]'

DENSE_CLASSES = 4096
"""Matrices of more classes keep only their non-zero entries. A dense one of 13,204 classes is 697 MB in float32."""


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
    label_names = tuple(classes)
    names = [name for name in classes if not name.startswith('/')]
    if store:
        label_names = tuple(store.label_names[i] for i in store.classes.indices(classes, f'{key}.classes'))
    elif names and path and not path.exists():
        return None
    elif names:
        raise ValueError(f'{key}.classes: {names[0]!r} is not a MID; a display name needs a store as hierarchy')
    require_unique(label_names, f'{key}.classes')
    return label_names


def is_missing(source: object) -> bool:
    """Whether a config value is a path that does not exist. Testing a model does not need its files."""
    return isinstance(source, (str, Path)) and not Path(source).exists()


def ancestor_matrix(hierarchy: Hierarchy, num_classes: int, label_names: Sequence[str] | None, key: str) -> csr_array:
    """Ancestors by class index.

    Args:
        hierarchy: A prepared store (folder), the official JSON file, or a (C, C) matrix that is true at [i, j] if j is
            an ancestor of i.
        num_classes: C.
        label_names: (C,) MIDs by class index. None: those of the store; a JSON file has no order of classes.
        key: Config key for error messages.

    Returns:
        (C, C) bool, true at [i, j] if j is an ancestor of i. For some of the store's classes, ancestry through the
        other classes is kept.

    Raises:
        AnnotationError: A file that does not exist, or does not hold the classes.
        ValueError: A matrix of another shape, a JSON file without ``label_names``.
    """
    if not isinstance(hierarchy, (str, Path)):
        matrix = csr_array(np.asarray(hierarchy).astype(bool))
    elif not Path(hierarchy).exists():
        raise AnnotationError(f'{key} = {hierarchy}: no such store or file')
    elif Path(hierarchy).is_dir():
        store = AnnotationStore(hierarchy)
        tree = store.metadata['hierarchy']
        matrix = ClassHierarchy(tree, label_names or store.label_names, source=str(hierarchy)).sparse_ancestors
    elif label_names is None:
        raise ValueError(
            f'{key} = {hierarchy}: a JSON file gives no order of classes; give a prepared store, or concurrent_rates, '
            'whose label_names give the order'
        )
    else:
        matrix = ClassHierarchy.from_json(hierarchy, label_names).sparse_ancestors
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f'{key}: expects a square ancestor matrix, got shape {matrix.shape}')
    if matrix.shape[0] != num_classes:
        raise ValueError(
            f'{key}: is for {matrix.shape[0]} classes, num_classes is {num_classes}; for a data set with some of the '
            'classes, give their names as classes = [...]'
        )
    return matrix


def class_matrix(matrix: csr_array) -> Tensor:
    """(M, M) Tensor: dense for up to :data:`DENSE_CLASSES` classes, else sparse (COO, coalesced)."""
    if matrix.shape[0] <= DENSE_CLASSES:
        return torch.from_numpy(matrix.toarray())
    entries = matrix.sorted_indices().tocoo()
    indices = torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64))
    return sparse_matrix(indices, torch.from_numpy(entries.data), entries.shape[0])


def sparse_matrix(indices: Tensor, values: Tensor, size: int) -> Tensor:
    """(size, size) sparse (COO) Tensor of (P,) values at (2, P) sorted rows and columns."""
    return torch.sparse_coo_tensor(indices, values, (size, size), check_invariants=False, is_coalesced=True)


def rows_of(matrix: Tensor, indices: Tensor) -> Tensor:
    """(P, M) dense rows of a dense or sparse (M, M) matrix, by (P,) row."""
    return matrix.index_select(0, indices).to_dense()


class Training:
    """Whether the next checkpoint is the ``load_from`` of a training. EMAHook's copy of a module shares it."""

    starts = False

    def __deepcopy__(self, memo: dict) -> Training:
        return self


class ClassBuffer(nn.Module):
    """Base of modules with a matrix by class that both a config and a checkpoint give, such as the rates.

    Training takes the config's, whatever ``load_from`` holds. Testing takes the checkpoint's, so it needs no data
    files, and so does ``--resume`` with :class:`mmoid.ClassOrderCheckHook`. A difference is logged.

    The matrix is a buffer of this name. If it is sparse, the buffer holds its (P,) non-zero values, and another one,
    with the suffix ``_indices``, their (2, P) rows and columns: a sparse buffer cannot be broadcast to other ranks.
    """

    buffer_name: str
    rates_from: str = 'checkpoint'  # or ``config``: keep the config's values in tests and with ``--resume`` too
    training_run: Training
    missing_files: Sequence[str] = ()  # ``key = path`` of files of the config that do not exist
    label_names: tuple[str, ...] | None = None  # (C,) MIDs by class index; None if nothing tells them
    class_names: Tensor | None  # the same in the checkpoint, as bytes

    if TYPE_CHECKING:  # else mypy takes every attribute of a head of mmdet for a Tensor or Module

        def __getattr__(self, name: str) -> Any: ...

    def set_class_buffer(self, matrix: Tensor, is_given: bool = True) -> None:
        """Sets the dense or sparse (M, M) matrix. Call it when ``label_names`` are known.

        ``is_given``: whether the config gives it; if not, it is empty.
        """
        self.matrix_size, self.matrix_is_given, self.training_run = len(matrix), is_given, Training()
        self.register_buffer(self.buffer_name, matrix.values() if matrix.is_sparse else matrix)
        self.register_buffer(f'{self.buffer_name}_indices', matrix.indices() if matrix.is_sparse else None)
        names = '\n'.join(self.label_names or ()).encode()
        self.register_buffer('class_names', torch.tensor(list(names), dtype=torch.uint8) if names else None)

    def class_buffer(self) -> Tensor:
        """The dense or sparse (M, M) matrix."""
        values, indices = getattr(self, self.buffer_name), getattr(self, f'{self.buffer_name}_indices')
        return values if indices is None else sparse_matrix(indices, values, self.matrix_size)

    @property
    def config_wins(self) -> bool:
        """Whether the config's values stay when the next checkpoint is loaded."""
        return self.rates_from == 'config' or self.training_run.starts

    def init_weights(self) -> None:
        """Called by mmengine's Runner before training."""
        super().init_weights()  # type: ignore[misc]  # of the class that this one is mixed into
        self.require_class_files()
        self.training_run.starts = True

    def require_class_files(self) -> None:
        """Raises AnnotationError if files were missing and no checkpoint has given the buffer."""
        if self.missing_files:
            raise AnnotationError(
                f'{self.missing_files[0]}: no such file, and no checkpoint with the {self.buffer_name} was loaded'
            )

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        key, indices = prefix + self.buffer_name, f'{prefix}{self.buffer_name}_indices'
        buffers = {name: getattr(self, name.removeprefix(prefix)) for name in (key, indices)}
        own = {name: buffer for name, buffer in buffers.items() if buffer is not None}
        given = {name: state_dict[name] for name in own if name in state_dict}
        names = state_dict.pop(f'{prefix}class_names', None)
        if self.class_names is not None:
            state_dict[f'{prefix}class_names'] = self.class_names
            if names is not None:
                self._require_names(bytes(names.tolist()).decode().split('\n'))
        from_config = self.config_wins and not self.missing_files
        is_reported = from_config or (self.matrix_is_given and not self.missing_files)
        fits = given.keys() == own.keys()
        if fits and indices in own:
            fits = bool((given[indices] < self.matrix_size).all())
        elif fits:
            fits = given[key].shape == own[key].shape
        if fits and not from_config:
            self.missing_files = ()
            for name, buffer in given.items():
                if buffer.shape != own[name].shape:  # another number of non-zero values
                    self.register_buffer(name.removeprefix(prefix), torch.empty_like(buffer, device=own[name].device))
        if given and is_reported and not all(torch.equal(given[name].to(own[name]), own[name]) for name in given):
            used = "the config's" if from_config else "the checkpoint's (loss_cls.rates_from='config' changes that)"
            what = f'{type(self).__name__}: the {self.buffer_name}'
            message = f'{what} of the config and of the checkpoint differ; using {used}'
            print_log(message, 'current', logging.INFO if from_config else logging.WARNING)
        if from_config or not (given or self.missing_files):  # of a stock loss: no reason to report missing keys
            state_dict.pop(indices, None)
            state_dict.update(own)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _require_names(self, names: Sequence[str]) -> None:
        """Raises ValueError if the checkpoint's MIDs are not the config's."""
        label_names = self.label_names or ()
        if len(names) != len(label_names) and self.config_wins:
            return  # fine-tuning on more or fewer classes starts with a new last layer
        for index, (own, other) in enumerate(zip_longest(label_names, names)):
            if own != other:
                raise ValueError(
                    f'the checkpoint has other classes than the config: class {index} is {other} there and {own} here; '
                    'convert it with mmoid convert'
                )
