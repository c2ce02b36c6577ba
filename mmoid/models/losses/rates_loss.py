"""What the losses that know concurrent rates share: the rates, where they come from and how they travel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mmoid.models.class_graph import Hierarchy, ancestor_matrix
from mmoid.models.losses.label_set_loss import LabelSetLoss
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.statistics.concurrent_rates import load_rates

Rates: TypeAlias = 'str | Path | np.ndarray | Sequence[Sequence[float]]'


class RatesLoss(LabelSetLoss):
    """A loss with the rates r_ij as a buffer: they travel in the checkpoint, and a trained model needs no data files.

    Files that are not there when the model is built are therefore no error yet; they are one when training starts, or
    when the rates are used and no checkpoint has brought them. The rates of a checkpoint replace those of the config.

    Args:
        num_classes: C, without background.
        concurrent_rates: (C, C) array of r_ij, or the ``.npz`` that ``tools/analysis_tools/concurrent_rates.py`` writes. Its classes
            are found by their MIDs. None: 0.
        hierarchy: A prepared store, the official JSON (with an ``.npz`` of rates, which gives the order of classes),
            or a (C, C) ancestor matrix. None: no class is an ancestor of another.
        hierarchy_rate: r_ij and r_ji of a class and its ancestor, whatever ``concurrent_rates`` says.
        **kwargs: As for :class:`LabelSetLoss`.

    Raises:
        AnnotationError: Rates or hierarchy of another shape or of other classes.
        ValueError: ``hierarchy_rate`` outside [0, 1].
    """

    rates: Tensor  # (C+1, C+1) float32; background, the last, is concurrent with nothing

    def __init__(
        self,
        num_classes: int,
        concurrent_rates: Rates | None = None,
        hierarchy: Hierarchy | None = None,
        hierarchy_rate: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, hierarchy=hierarchy, **kwargs)
        if not 0 <= hierarchy_rate <= 1:
            raise ValueError(f'loss_cls.hierarchy_rate must be in [0, 1], got {hierarchy_rate}')
        sources = {'concurrent_rates': concurrent_rates, 'hierarchy': hierarchy}
        self.missing_files = {
            key: str(path) for key, path in sources.items()
            if isinstance(path, (str, Path)) and not Path(path).exists()
        }  # fmt: skip
        rates = np.zeros((num_classes + 1, num_classes + 1), dtype=np.float32)
        if not self.missing_files:
            rates[:-1, :-1] = self._read_rates(concurrent_rates)
            if hierarchy is not None:
                related = ancestor_matrix(hierarchy, num_classes, self.label_names, 'loss_cls.hierarchy')
                rates[:-1, :-1][related | related.T] = hierarchy_rate
            np.fill_diagonal(rates, 0)
        self.register_buffer('rates', torch.from_numpy(rates))

    def init_weights(self) -> None:
        """Called by mmengine's Runner before training, which must not start without the rates."""
        super().init_weights()
        self.require_rates()

    def require_rates(self) -> None:
        """Raises AnnotationError where files were missing and no checkpoint has brought what they hold."""
        for key, path in self.missing_files.items():
            raise AnnotationError(f'loss_cls.{key} = {path}: no such file, and no checkpoint with the rates was loaded')

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if f'{prefix}rates' in state_dict:
            self.missing_files = {}

    def _read_rates(self, source: Rates | None) -> np.ndarray:
        """(C, C) float32. Sets ``label_names`` where only the file of rates tells them."""
        shape = (self.num_classes, self.num_classes)
        if source is None:
            return np.zeros(shape, dtype=np.float32)
        if isinstance(source, (str, Path)):
            rates, names = load_rates(source)
            order = self.label_names or names
            missing = [name for name in order if name not in set(names)]
            if missing:
                raise AnnotationError(
                    f'loss_cls.concurrent_rates = {source}: has other classes than loss_cls.hierarchy; it does not '
                    f'hold {missing[0]!r}'
                )
            position = {name: i for i, name in enumerate(names)}
            rows = [position[name] for name in order]
            self.label_names, rates = order, rates[np.ix_(rows, rows)]
        else:
            try:
                rates = np.asarray(source, dtype=np.float32)
            except (TypeError, ValueError) as error:
                raise AnnotationError(
                    f'loss_cls.concurrent_rates: expects a (C, C) array of numbers ({error})'
                ) from error
        if rates.shape != shape:
            raise AnnotationError(
                f'loss_cls.concurrent_rates: has shape {tuple(rates.shape)}, expected {shape} for num_classes '
                f'{self.num_classes}; name the classes of a data set that has a part of them by classes = […]'
            )
        if not ((rates >= 0) & (rates <= 1)).all():
            raise AnnotationError(f'loss_cls.concurrent_rates: must be in [0, 1], got {rates.min()} to {rates.max()}')
        return rates
