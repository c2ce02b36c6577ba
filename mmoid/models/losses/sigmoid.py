"""The sigmoid losses of Table 1: mmdet's, on label sets. They decide on each class separately."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from mmdet.models.losses.cross_entropy_loss import binary_cross_entropy
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from mmdet.registry import MODELS
from torch import Tensor

from mmoid.models.losses.base import ClassWeight, LabelSetLoss, RatesLoss


class SigmoidLoss(LabelSetLoss):
    """Base of the losses that use the C class channels and leave the background channel alone.

    A subclass gives :meth:`class_losses`.
    """

    # A score of 0.5 for each of 500 classes would make the first losses hundreds of times those of a softmax.
    initial_score = 0.01

    @abstractmethod
    def class_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N, C) losses of (N, C) float32 logits against (N, C) targets that are 0.0 or 1.0."""

    def row_losses(self, cls_score: Tensor, targets: Tensor) -> Tensor:
        losses = self.class_losses(cls_score[:, :-1].float(), targets[:, :-1].float())
        if self.class_weight is not None:
            losses = losses * self.class_weight[:-1]
        return losses.sum(dim=1)

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """(N, C+1) sigmoid scores; the background score is 1 minus the best class score."""
        scores = cls_score[:, :-1].float().sigmoid()
        return torch.cat([scores, 1 - scores.amax(dim=1, keepdim=True)], dim=1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return super().get_accuracy(self.get_activation(cls_score), labels)


@MODELS.register_module()
class LabelSetBCELoss(SigmoidLoss):
    """Binary cross-entropy ("BCE" in Table 1): mmdet's, summed over the classes of a row.

    The arguments are those of :class:`LabelSetLoss`.
    """

    def class_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        return binary_cross_entropy(logits, targets, reduction='none')


@MODELS.register_module()
class LabelSetFocalLoss(SigmoidLoss):
    """Sigmoid focal loss: mmdet's, summed over the classes of a row.

    Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, Eq. 5.

    Args:
        num_classes, class_weight, classes, loss_weight, reduction: See :class:`LabelSetLoss`.
        gamma: Focusing parameter >= 0; 0 is a weighted binary cross-entropy.
        alpha: Weight of positive terms in [0, 1]; negative terms have 1 - alpha.
    """

    def __init__(
        self,
        num_classes: int,
        class_weight: ClassWeight | None = None,
        classes: Sequence[str] | None = None,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
        gamma: float = 2.0,
        alpha: float = 0.25,
    ) -> None:
        super().__init__(num_classes, class_weight, classes, loss_weight, reduction)
        self.gamma = gamma
        self.alpha = alpha

    def class_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        return py_sigmoid_focal_loss(logits, targets, gamma=self.gamma, alpha=self.alpha, reduction='none')


@MODELS.register_module()
class CoBCELoss(SigmoidLoss, RatesLoss):
    """Binary cross-entropy without the negative terms of classes that co-occur with a label of the row.

    "Co-BCE" in Table 1, after the co-occurrence loss of Akiba et al., "PFDet: 2nd Place Solution to Open Images
    Challenge 2018 Object Detection Track", arXiv 1809.00778. That report ignores the loss of part classes (Arm) of a
    proposal inside a subject (Person), by a list of classes. Here class j co-occurs with label i if r_ij > 0. With a
    hierarchy these are the ancestors and descendants too, unless ``hierarchy_rate`` is 0.

    The arguments are those of :class:`RatesLoss`.
    """

    def class_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        excused = targets @ (self.rates[:-1, :-1] > 0).to(targets.dtype) > 0
        counted = torch.maximum(targets, (~excused).to(targets.dtype))
        return binary_cross_entropy(logits, targets, weight=counted, reduction='none')
