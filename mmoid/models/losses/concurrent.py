"""ConcurrentSoftmaxLoss: the module around Eq. 3-5."""

from __future__ import annotations

from typing import Any

from mmdet.registry import MODELS
from torch import Tensor

from mmoid.models.losses.functional import concurrent_softmax, concurrent_softmax_loss_of_pairs, ordinary_classes
from mmoid.models.losses.rates_loss import RatesLoss


@MODELS.register_module()
class ConcurrentSoftmaxLoss(RatesLoss):
    """Softmax in which classes that occur together do not suppress each other (Sec. 4.1 of the paper).

    About the hierarchy the paper says that r_ij "is set 0" for a leaf and its parent, and argues that their scores
    then "would not suppress each other", which needs 1 - r_ij = 0. The default follows the argument;
    ``hierarchy_rate=0.0`` is the literal reading.

    Args:
        num_classes: C, without background.
        concurrent_rates: (C, C) array of r_ij, or the ``.npz`` that ``tools/analysis_tools/concurrent_rates.py`` writes. None: 0.
        hierarchy: A prepared store, the official JSON, or a (C, C) ancestor matrix; see :class:`RatesLoss`.
        hierarchy_rate: r_ij and r_ji of a class and its ancestor, whatever ``concurrent_rates`` says.
        classes, class_weight, loss_weight, reduction: See :class:`LabelSetLoss`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ordinary: tuple[Tensor, int, Tensor] | None = None

    def row_losses(self, cls_score: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        return concurrent_softmax_loss_of_pairs(
            cls_score, rows, labels, self.rates, self.ordinary_classes(), self.class_weight
        )

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """(N, C+1) scores of Eq. 5; a row may sum to more than 1."""
        self.require_rates()
        return concurrent_softmax(cls_score, self.rates)

    def ordinary_classes(self) -> Tensor:
        """(C+1,) bool: classes that are concurrent with none; counted again when ``rates`` have moved or changed."""
        kept = self._ordinary
        if kept is None or kept[0] is not self.rates or kept[1] != self.rates._version:
            kept = self._ordinary = self.rates, self.rates._version, ordinary_classes(self.rates)
        return kept[2]
