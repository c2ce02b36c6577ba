"""ConcurrentSoftmaxLoss: the module around Eq. 3-5, with its rates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import MODELS
from torch import Tensor

from mmoid.models.class_graph import Hierarchy, ancestor_matrix, hierarchy_label_names
from mmoid.openimages.concurrence import load_rates
from mmoid.openimages.errors import AnnotationError

from .functional import concurrent_softmax, concurrent_softmax_loss_of_pairs, ordinary_classes
from .label_set_loss import LabelSetLoss


@MODELS.register_module()
class ConcurrentSoftmaxLoss(LabelSetLoss):
    """Softmax in which classes that occur together do not suppress each other (Sec. 4.1 of the paper).

    The rates are a buffer and travel in the checkpoint: a trained model needs no data files. Files that are not there
    when the model is built are therefore no error yet; they are one when training starts, or when a score is asked
    for and no checkpoint has brought the rates.

    About the hierarchy the paper says that r_ij "is set 0" for a leaf and its parent, and argues that their scores
    then "would not suppress each other", which needs 1 - r_ij = 0. The default follows the argument;
    ``hierarchy_rate=0.0`` is the literal reading.

    Args:
        num_classes: C, without background.
        concurrent_rates: (C, C) array of r_ij, or the ``.npz`` that ``tools/concurrent_rates.py`` writes. None: 0.
        hierarchy: A prepared store, the official JSON (with an ``.npz`` of rates, which gives the order of classes),
            or a (C, C) ancestor matrix. None: no class is an ancestor of another.
        hierarchy_rate: r_ij and r_ji of a class and its ancestor, whatever ``concurrent_rates`` says.
        loss_weight: Factor of the result.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        AnnotationError: Rates or hierarchy of another shape or of other classes.
        ValueError: ``hierarchy_rate`` outside [0, 1].
    """

    rates: Tensor  # (C+1, C+1) float32; background, the last, is concurrent with nothing

    def __init__(
        self,
        num_classes: int,
        concurrent_rates: str | Path | np.ndarray | Sequence[Sequence[float]] | None = None,
        hierarchy: Hierarchy | None = None,
        hierarchy_rate: float = 1.0,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
    ) -> None:
        super().__init__(num_classes, loss_weight, reduction)
        if not 0 <= hierarchy_rate <= 1:
            raise ValueError(f'loss_cls.hierarchy_rate must be in [0, 1], got {hierarchy_rate}')
        self.label_names: tuple[str, ...] | None = None
        sources = {'concurrent_rates': concurrent_rates, 'hierarchy': hierarchy}
        self.missing_files = {
            key: str(path) for key, path in sources.items()
            if isinstance(path, (str, Path)) and not Path(path).exists()
        }  # fmt: skip
        rates = np.zeros((num_classes + 1, num_classes + 1), dtype=np.float32)
        if not self.missing_files:
            rates[:-1, :-1] = self._read_rates(concurrent_rates, hierarchy)
            if hierarchy is not None:
                related = ancestor_matrix(hierarchy, num_classes, self.label_names, 'loss_cls.hierarchy')
                rates[:-1, :-1][related | related.T] = hierarchy_rate
            np.fill_diagonal(rates, 0)
        self.register_buffer('rates', torch.from_numpy(rates))
        self._ordinary: tuple[Tensor, int, Tensor] | None = None

    def row_losses(self, cls_score: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        return concurrent_softmax_loss_of_pairs(cls_score, rows, labels, self.rates, self.ordinary_classes())

    def ordinary_classes(self) -> Tensor:
        """(C+1,) bool: classes that are concurrent with none; counted again when ``rates`` have moved or changed."""
        kept = self._ordinary
        if kept is None or kept[0] is not self.rates or kept[1] != self.rates._version:
            kept = self._ordinary = self.rates, self.rates._version, ordinary_classes(self.rates)
        return kept[2]

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """(N, C+1) scores of Eq. 5; a row may sum to more than 1."""
        self.require_rates()
        return concurrent_softmax(cls_score, self.rates)

    def init_weights(self) -> None:
        """Called by mmengine's Runner before training, which must not start without the rates."""
        self.require_rates()

    def require_rates(self) -> None:
        """Raises AnnotationError where files were missing and no checkpoint has brought what they hold."""
        for key, path in self.missing_files.items():
            raise AnnotationError(f'loss_cls.{key} = {path}: no such file, and no checkpoint with the rates was loaded')

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if f'{prefix}rates' in state_dict:
            self.missing_files = {}

    def _read_rates(
        self, source: str | Path | np.ndarray | Sequence[Sequence[float]] | None, hierarchy: Hierarchy | None
    ) -> np.ndarray:
        shape = (self.num_classes, self.num_classes)
        order = hierarchy_label_names(hierarchy)
        self.label_names = order
        if source is None:
            return np.zeros(shape, dtype=np.float32)
        if isinstance(source, (str, Path)):
            rates, names = load_rates(source)
            if order is not None and names != order and set(names) == set(order):
                position = [names.index(name) for name in order]
                rates, names = rates[np.ix_(position, position)], order
            if order is not None and names != order:
                odd = sorted(set(names) ^ set(order))[0]
                raise AnnotationError(
                    f'loss_cls.concurrent_rates = {source}: has other classes than loss_cls.hierarchy, such as {odd!r}'
                )
            self.label_names = names
        else:
            rates = np.asarray(source, dtype=np.float32)
        if rates.shape != shape:
            raise AnnotationError(
                f'loss_cls.concurrent_rates: has shape {tuple(rates.shape)}, expected {shape} for num_classes '
                f'{self.num_classes}'
            )
        if not ((rates >= 0) & (rates <= 1)).all():
            raise AnnotationError(f'loss_cls.concurrent_rates: must be in [0, 1], got {rates.min()} to {rates.max()}')
        return rates
