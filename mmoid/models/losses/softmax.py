"""The softmax losses of Table 1 without concurrence: one label, or an equal share for each label."""

from __future__ import annotations

import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmoid.models.losses.base import LabelSetLoss
from mmoid.models.losses.concurrent_softmax import LOG_ZERO


@MODELS.register_module()
class DistCELoss(LabelSetLoss):
    """Cross-entropy with target 1 / k for each of the k labels of a row: L(b) = - 1/k Σ_{i∈K} log softmax_i.

    "dist-CE" in Table 1; Mahajan et al., "Exploring the Limits of Weakly Supervised Pretraining", ECCV 2018, Sec. 2.3.
    The arguments are those of :class:`LabelSetLoss`.
    """

    def row_losses(self, cls_score: Tensor, targets: Tensor, judged: Tensor | None) -> Tensor:
        logits = cls_score.float()
        if judged is not None:
            logits = logits.masked_fill(~(judged | targets), LOG_ZERO)
        shares = targets / targets.sum(dim=1, keepdim=True)
        return F.cross_entropy(logits, shares, weight=self.class_weight, reduction='none')

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """(N, C+1) softmax scores; every row sums to 1."""
        return cls_score.float().softmax(dim=1)


@MODELS.register_module()
class SoftmaxLoss(DistCELoss):
    """Cross-entropy with the one label that mmdet assigns to a proposal: the baseline.

    The arguments are those of :class:`LabelSetLoss`.
    """

    uses_label_sets = False
