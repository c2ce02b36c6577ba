"""The sigmoid losses of Table 1: a yes or no for each class, no background channel. mmdet's, on label sets."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.losses.cross_entropy_loss import binary_cross_entropy
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from mmdet.registry import MODELS
from torch import Tensor

from mmoid.models.losses.label_set_loss import LabelSetLoss
from mmoid.models.losses.rates_loss import RatesLoss


class _Sigmoid(LabelSetLoss):
    """Scores and accuracy of losses that score each class by itself. The background channel has no part in them."""

    # A score of 0.5 for each of 500 classes would make the first losses hundreds of times as large as a softmax's.
    initial_score = 0.01

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """(N, C+1) sigmoid scores; that of background is what the best class leaves of 1."""
        scores = cls_score[:, :-1].float().sigmoid()
        return torch.cat([scores, 1 - scores.amax(dim=1, keepdim=True)], dim=1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return super().get_accuracy(self.get_activation(cls_score), labels)

    def targets_of(self, cls_score: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        """(N, C) float 0 or 1."""
        targets = torch.zeros_like(cls_score, dtype=torch.float32)
        targets[rows, labels] = 1
        return targets[:, :-1]

    def sum_over_classes(self, losses: Tensor) -> Tensor:
        """(N,) from (N, C), each class with its weight."""
        return (losses if self.class_weight is None else losses * self.class_weight[:-1]).sum(dim=1)


@MODELS.register_module()
class LabelSetBCELoss(_Sigmoid):
    """Binary cross-entropy ("BCE" in Table 1): mmdet's, summed over the classes of a row."""

    def row_losses(self, cls_score: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        targets = self.targets_of(cls_score, rows, labels)
        return self.sum_over_classes(binary_cross_entropy(cls_score[:, :-1].float(), targets, reduction='none'))


@MODELS.register_module()
class LabelSetFocalLoss(_Sigmoid):
    """Sigmoid focal loss: mmdet's, summed over the classes of a row.

    Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, Eq. 5.

    Args:
        *args: As for :class:`LabelSetLoss`.
        gamma: Focusing parameter >= 0; 0 is a weighted binary cross-entropy.
        alpha: Weight of positive terms in [0, 1]; negative ones have 1 - alpha.
        **kwargs: As for :class:`LabelSetLoss`.
    """

    def __init__(self, *args: Any, gamma: float = 2.0, alpha: float = 0.25, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gamma = gamma
        self.alpha = alpha

    def row_losses(self, cls_score: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        targets = self.targets_of(cls_score, rows, labels)
        return self.sum_over_classes(
            py_sigmoid_focal_loss(
                cls_score[:, :-1].float(), targets, gamma=self.gamma, alpha=self.alpha, reduction='none'
            )
        )


@MODELS.register_module()
class CoBCELoss(_Sigmoid, RatesLoss):
    """Binary cross-entropy without the negative terms of classes that co-occur with a label of the row.

    "Co-BCE" in Table 1, after the co-occurrence loss of Akiba et al., "PFDet: 2nd Place Solution to Open Images
    Challenge 2018 Object Detection Track", arXiv 1809.00778. That report ignores the loss of part classes (Arm) of a
    proposal inside a subject (Person), by a list of classes; here the list comes from the rates: class j co-occurs
    with label i where r_ij > 0. With a hierarchy these are the ancestors and descendants too, unless
    ``hierarchy_rate`` is 0.

    Args:
        *args: As for :class:`RatesLoss`.
        **kwargs: As for :class:`RatesLoss`.
    """

    def row_losses(self, cls_score: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        targets = self.targets_of(cls_score, rows, labels)
        counts = torch.ones_like(targets)
        objects = labels < self.num_classes
        excused, classes = (self.rates[labels[objects], :-1] > 0).nonzero(as_tuple=True)
        counts[rows[objects][excused], classes] = 0
        counts = torch.maximum(counts, targets)
        losses = binary_cross_entropy(cls_score[:, :-1].float(), targets, weight=counts, reduction='none')
        return self.sum_over_classes(losses)
