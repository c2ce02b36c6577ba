"""The softmax losses of Table 1 that know no concurrence: one label, or an equal share for each label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmoid.models.losses.functional import occurrences
from mmoid.models.losses.label_set_loss import LabelSetLoss


@MODELS.register_module()
class SoftmaxLoss(LabelSetLoss):
    """Cross-entropy against the label of the one ground-truth box that a proposal is assigned to: the baseline."""

    uses_label_sets = False

    def row_losses(self, cls_score: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        if len(rows) != len(cls_score):
            raise ValueError(f'{type(self).__name__} takes one label a row; it got a label set of several')
        target = torch.empty_like(labels).index_copy_(0, rows, labels)
        return F.cross_entropy(cls_score.float(), target, weight=self.class_weight, reduction='none')

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """(N, C+1) softmax scores; every row sums to 1."""
        return cls_score.float().softmax(dim=1)


@MODELS.register_module()
class DistCELoss(LabelSetLoss):
    """Cross-entropy against 1 / k for each of the k labels: L(b) = - 1/k Σ_{i∈K} log softmax_i.

    "dist-CE" in Table 1; Mahajan et al., "Exploring the Limits of Weakly Supervised Pretraining", ECCV 2018, Sec. 2.3.
    """

    def row_losses(self, cls_score: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        log_scores = cls_score.float().log_softmax(dim=1)
        losses = -log_scores[rows, labels] / occurrences(rows, len(cls_score))[rows]
        if self.class_weight is not None:
            losses = losses * self.class_weight[labels]
        return torch.zeros_like(log_scores[:, 0]).index_add(0, rows, losses)

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """(N, C+1) softmax scores; every row sums to 1."""
        return cls_score.float().softmax(dim=1)
