"""The sigmoid losses of Table 1, and those of dense and DETR-type heads. They decide on each class separately."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from mmdet.models.losses.cross_entropy_loss import binary_cross_entropy
from mmdet.models.losses.focal_loss import py_focal_loss_with_prob, py_sigmoid_focal_loss
from mmdet.registry import MODELS
from torch import Tensor

from mmoid.models.class_lists import Hierarchy, rows_of
from mmoid.models.losses.base import ClassWeight, LabelSetLoss, Rates, RatesLoss
from mmoid.models.losses.concurrent_softmax import log_suppression


class SigmoidLoss(LabelSetLoss):
    """Base of the losses that use the C class channels and leave the background channel, if there is one, alone.

    A subclass gives :meth:`class_losses`.
    """

    # A score of 0.5 for each of 500 classes would make the first losses hundreds of times those of a softmax.
    initial_score = 0.01

    @abstractmethod
    def class_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N, C) losses of (N, C) float32 logits against (N, C) targets that are 0.0 or 1.0."""

    def negative_weight(self, targets: Tensor) -> Tensor | None:
        """(N, C) factor of the classes that are not in the (N, C) float32 ``targets``; None: 1."""
        return None

    def row_losses(self, cls_score: Tensor, targets: Tensor, judged: Tensor | None) -> Tensor:
        sets = targets[:, :-1]
        with torch.autocast(cls_score.device.type, enabled=False):
            losses = self.class_losses(cls_score[:, : self.num_classes].float(), sets.float())
            weight = self.negative_weight(sets.float())
        if weight is not None:
            losses = torch.where(sets, losses, losses * weight)
        if judged is not None:
            losses = losses.masked_fill(~(judged[:, :-1] | sets), 0)
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
        self.gamma, self.alpha = gamma, alpha

    def class_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        return py_sigmoid_focal_loss(logits, targets, gamma=self.gamma, alpha=self.alpha, reduction='none')


@MODELS.register_module()
class CoBCELoss(LabelSetBCELoss, RatesLoss):
    """Binary cross-entropy without the negative terms of classes that co-occur with a label of the row.

    "Co-BCE" in Table 1, after the co-occurrence loss of Akiba et al., "PFDet: 2nd Place Solution to Open Images
    Challenge 2018 Object Detection Track", arXiv 1809.00778. That report ignores the loss of part classes (Arm) of a
    proposal inside a subject (Person), by a list of classes. Here class j co-occurs with label i if r_ij > 0. With a
    hierarchy these are the ancestors and descendants too, unless ``hierarchy_rate`` is 0.

    The arguments are those of :class:`RatesLoss`.
    """

    def negative_weight(self, targets: Tensor) -> Tensor:
        rows, labels = targets.nonzero(as_tuple=True)
        concurrent = rows_of(self.class_buffer(), labels)[:, :-1] > 0
        return (torch.zeros_like(targets).index_add(0, rows, concurrent.to(targets)) == 0).to(targets)


class ConcurrentSigmoidLoss(SigmoidLoss, RatesLoss):
    """Base of the losses of dense and DETR-type heads: class j is a negative with weight Π_i (1 - r_ij) over labels i.

    So a class that always occurs with a label is no negative of it, as in Eq. 3.
    """

    def negative_weight(self, targets: Tensor) -> Tensor:
        rows, labels = targets.nonzero(as_tuple=True)
        suppression = log_suppression(self.class_buffer(), labels)[:, :-1]
        return torch.zeros_like(targets).index_add(0, rows, suppression).exp()


@MODELS.register_module()
class ConcurrentFocalLoss(ConcurrentSigmoidLoss):
    """Sigmoid focal loss on label sets with concurrent rates, for the heads of :class:`mmoid.LabelSetHead`.

    With one label for each object and no rates it is mmdet's ``FocalLoss``.

    Args:
        num_classes, concurrent_rates, hierarchy, hierarchy_rate, rates_from: See :class:`RatesLoss`.
        class_weight, classes, loss_weight, reduction: See :class:`RatesLoss`.
        gamma, alpha: See :class:`LabelSetFocalLoss`.
        activated: The head gives scores in [0, 1] instead of logits, as TOOD's does.
    """

    def __init__(
        self,
        num_classes: int,
        concurrent_rates: Rates | None = None,
        hierarchy: Hierarchy | None = None,
        hierarchy_rate: float = 1.0,
        rates_from: Literal['checkpoint', 'config'] = 'checkpoint',
        class_weight: ClassWeight | None = None,
        classes: Sequence[str] | None = None,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
        gamma: float = 2.0,
        alpha: float = 0.25,
        activated: bool = False,
    ) -> None:
        rates = concurrent_rates, hierarchy, hierarchy_rate, rates_from
        super().__init__(num_classes, *rates, class_weight, classes, loss_weight, reduction)
        self.gamma, self.alpha = gamma, alpha
        self.focal_loss = py_focal_loss_with_prob if activated else py_sigmoid_focal_loss

    def class_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.focal_loss(logits, targets, gamma=self.gamma, alpha=self.alpha, reduction='none')


@MODELS.register_module()
class ConcurrentQualityFocalLoss(ConcurrentSigmoidLoss):
    """Quality focal loss on label sets with concurrent rates, for the heads of :class:`mmoid.LabelSetHead`.

    Li et al., "Generalized Focal Loss", NeurIPS 2020, Eq. 5: every label of an object has its quality, such as the IoU
    of its box, as the target. With one label for each object and no rates it is mmdet's ``QualityFocalLoss``.

    Args:
        num_classes, concurrent_rates, hierarchy, hierarchy_rate, rates_from: See :class:`RatesLoss`.
        class_weight, classes, loss_weight, reduction: See :class:`RatesLoss`.
        beta: Focusing parameter >= 0.
        activated: The head gives scores in [0, 1] instead of logits, as TOOD's does.
    """

    def __init__(
        self,
        num_classes: int,
        concurrent_rates: Rates | None = None,
        hierarchy: Hierarchy | None = None,
        hierarchy_rate: float = 1.0,
        rates_from: Literal['checkpoint', 'config'] = 'checkpoint',
        class_weight: ClassWeight | None = None,
        classes: Sequence[str] | None = None,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
        beta: float = 2.0,
        activated: bool = False,
    ) -> None:
        rates = concurrent_rates, hierarchy, hierarchy_rate, rates_from
        super().__init__(num_classes, *rates, class_weight, classes, loss_weight, reduction)
        self.beta, self.activated = beta, activated
        self.quality = torch.empty(0)

    def forward(self, cls_score: Tensor, labels: Any, *args: Any, **kwargs: Any) -> Tensor:
        """As in :class:`LabelSetLoss`; ``labels`` is a pair of labels and (N,) qualities in [0, 1], as in mmdet."""
        if isinstance(labels, Tensor):
            raise ValueError(
                'ConcurrentQualityFocalLoss takes labels with qualities, and this head gives none: use '
                "loss_cls.type='mmoid.ConcurrentFocalLoss' or 'mmoid.ConcurrentSoftmaxLoss'"
            )
        labels, self.quality = labels
        return super().forward(cls_score, labels, *args, **kwargs)

    def class_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        quality = targets * self.quality.detach()[:, None]
        scores = logits if self.activated else logits.sigmoid()
        entropy = F.binary_cross_entropy if self.activated else F.binary_cross_entropy_with_logits
        return entropy(logits, quality, reduction='none') * (quality - scores).abs().pow(self.beta)
