"""SoftmaxLoss: ordinary softmax on one label, the baseline of Table 1."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from .label_set_loss import LabelSetLoss


@MODELS.register_module()
class SoftmaxLoss(LabelSetLoss):
    """Cross-entropy against the label of the one ground-truth box that a proposal is assigned to.

    Takes the arguments of :class:`ConcurrentSoftmaxLoss`, so that a config swaps the two by ``type`` alone; rates and
    hierarchy have no part in it.
    """

    uses_label_sets = False

    def __init__(
        self,
        num_classes: int,
        concurrent_rates: Any = None,
        hierarchy: Any = None,
        hierarchy_rate: float = 1.0,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
    ) -> None:
        super().__init__(num_classes, loss_weight, reduction)

    def row_losses(self, cls_score: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        if len(rows) != len(cls_score):
            raise ValueError('SoftmaxLoss takes one label a row; it got a label set of several')
        return F.cross_entropy(
            cls_score.float(), torch.empty_like(labels).index_copy_(0, rows, labels), reduction='none'
        )

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """(N, C+1) softmax scores; every row sums to 1."""
        return cls_score.float().softmax(dim=1)
