"""What all classification losses of mmoid share: targets, channels, accuracy, reduction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn

from mmoid.models.class_graph import label_names_of
from mmoid.models.losses.class_weight import ClassWeight, class_weights
from mmoid.models.losses.functional import nonzero, occurrences
from mmoid.openimages.errors import AnnotationError

REDUCTIONS = ('none', 'mean', 'sum')


class LabelSetLoss(nn.Module, ABC):
    """Base of losses that a box head can swap by ``type`` alone.

    A subclass gives :meth:`row_losses` and :meth:`get_activation`. mmdet's ``BBoxHead`` asks the three ``custom_*``
    attributes; :class:`mmoid.LabelSetBBoxHead` asks ``uses_label_sets``.

    All take the same arguments, whether they use them or not.

    Args:
        num_classes: C, without background.
        concurrent_rates, hierarchy, hierarchy_rate: See :class:`RatesLoss`. Other losses use of them the order of
            classes that a store tells.
        classes: Names or MIDs by class index, for a data set with a part of the classes (its ``metainfo.classes``).
        class_weight: Factor of all terms of each class: (C,) numbers, or ``dict(store=folder, beta=β)`` for weights by
            the effective number of samples (:func:`~mmoid.openimages.sampling.soft_balance.effective_number_weights`). Background
            has 1. None: 1.
        loss_weight: Factor of the result.
        reduction: ``mean``, ``sum`` or ``none``.

    Attributes:
        hierarchy, classes: As given, for a RoI sampler that has none of its own.
        label_names: MIDs by class index, or None where nothing tells them.
        initial_score: Score that an untrained head shall give each class; None leaves the head as it is.
    """

    custom_cls_channels = True
    custom_activation = True
    custom_accuracy = True
    uses_label_sets = True
    initial_score: float | None = None
    class_weight: Tensor | None  # (C+1,) float32

    def __init__(
        self,
        num_classes: int,
        concurrent_rates: Any = None,
        hierarchy: Any = None,
        hierarchy_rate: float = 1.0,
        classes: Sequence[str] | None = None,
        class_weight: ClassWeight | None = None,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f'loss_cls.num_classes must be at least 1, got {num_classes}')
        if reduction not in REDUCTIONS:
            raise ValueError(f'loss_cls.reduction must be one of {", ".join(REDUCTIONS)}, got {reduction!r}')
        if classes is not None and len(classes) != num_classes:
            raise ValueError(f'loss_cls.classes has {len(classes)} classes, num_classes is {num_classes}')
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        self.reduction = reduction
        self.hierarchy, self.classes = hierarchy, classes
        self.label_names = label_names_of(hierarchy, classes, 'loss_cls')
        self.missing_store: str | None = None
        buffer = None
        if isinstance(class_weight, Mapping) and not Path(str(class_weight.get('store', '.'))).exists():
            self.missing_store = str(class_weight['store'])  # testing a model does not need it
        elif class_weight is not None:
            weights, self.label_names = class_weights(
                class_weight, num_classes, self.label_names, self.uses_label_sets, classes
            )
            buffer = torch.from_numpy(np.append(weights, np.float32(1)))
        self.register_buffer('class_weight', buffer, persistent=False)

    def init_weights(self) -> None:
        """Called by mmengine's Runner before training, which must not start without the weights."""
        if self.missing_store is not None:
            raise AnnotationError(f'loss_cls.class_weight.store = {self.missing_store}: no such store')

    @abstractmethod
    def row_losses(self, cls_score: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        """(N,) unweighted losses of (N, C+1) logits against label sets.

        Args:
            cls_score: (N, C+1), background last.
            rows: (P,) row of each label; each row has at least one.
            labels: (P,) class index; C is background.
        """

    @abstractmethod
    def get_activation(self, cls_score: Tensor) -> Tensor:
        """(N, C+1) scores in [0, 1] of (N, C+1) logits, background last."""

    def forward(
        self,
        cls_score: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Loss of a batch of boxes.

        Args:
            cls_score: (N, C+1) logits, background last.
            labels: (N,) long class indices with C = background, or label sets (N, C+1) or (N, C), bool or float; a row
                without any class is background.
            weight: (N,) weight of each row.
            avg_factor: Divides the sum instead of N, for ``mean`` only.
            reduction_override: Instead of ``reduction``, for this call.

        Returns:
            Scalar, or (N,) for ``none``. Of no boxes: 0, also for ``mean``.

        Raises:
            ValueError: Shapes that do not fit each other or ``num_classes``, a label outside [0, C].
        """
        if reduction_override is not None and reduction_override not in REDUCTIONS:
            raise ValueError(f'reduction_override must be one of {", ".join(REDUCTIONS)}, got {reduction_override!r}')
        if cls_score.dim() != 2 or cls_score.shape[1] != self.num_classes + 1:
            raise ValueError(
                f'cls_score has shape {tuple(cls_score.shape)}, expected (N, {self.num_classes} classes + 1)'
            )
        if labels.shape[:1] != cls_score.shape[:1]:
            raise ValueError(f'cls_score has {len(cls_score)} rows, labels have shape {tuple(labels.shape)}')
        if weight is not None and weight.shape != cls_score.shape[:1]:
            raise ValueError(f'weight has shape {tuple(weight.shape)}, expected ({len(cls_score)},), one for each row')
        losses = self.row_losses(cls_score, *self.pairs(labels))
        if weight is not None:
            weight = weight.to(losses.dtype)
        reduction = reduction_override or self.reduction
        if reduction == 'mean' and not len(losses):
            reduction, avg_factor = 'sum', None  # 0 / 0 would be NaN
        reduced = weight_reduce_loss(losses, weight, reduction, avg_factor)
        return self.loss_weight * reduced

    def pairs(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(P,) rows and (P,) labels, from any of the forms that :meth:`forward` takes; in no particular order."""
        num_rows, background = len(labels), self.num_classes
        if labels.dim() == 1:
            if labels.is_floating_point() or labels.dtype == torch.bool:
                raise ValueError(f'labels of shape ({num_rows},) must be class indices, got {labels.dtype}')
            outside = (labels < 0) | (labels > background)
            if outside.any():  # -1 would count from the end: background
                raise ValueError(f'labels must be in [0, {background}], got {labels[outside][0].item()}')
            return torch.arange(num_rows, device=labels.device), labels.long()
        if labels.dim() != 2 or labels.shape[1] not in (background, background + 1):
            raise ValueError(
                f'labels have shape {tuple(labels.shape)}, expected ({num_rows},) class indices or ({num_rows}, '
                f'{background}) label sets, with or without a last column for background'
            )
        rows, columns = nonzero(labels if labels.dtype == torch.bool else labels > 0)
        if labels.shape[1] > background:
            rows, columns = rows[columns < background], columns[columns < background]
        empty = (occurrences(rows, num_rows) == 0).nonzero().squeeze(1)
        return torch.cat([rows, empty]), torch.cat([columns, torch.full_like(empty, background)])

    def targets(self, labels: Tensor) -> Tensor:
        """(N, C+1) bool with background last, from any of the forms that :meth:`forward` takes."""
        targets: Tensor = torch.zeros(len(labels), self.num_classes + 1, dtype=torch.bool, device=labels.device)
        targets[self.pairs(labels)] = True
        return targets

    def get_cls_channels(self, num_classes: int) -> int:
        """Channels that the head must predict."""
        if num_classes != self.num_classes:
            raise ValueError(f'bbox_head.num_classes is {num_classes}, loss_cls.num_classes is {self.num_classes}')
        return num_classes + 1

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Share of rows, in percent, whose best channel is in their label set."""
        if not len(cls_score):
            return {'acc': cls_score.new_zeros(1)}
        rows, labels = self.pairs(labels)
        hits = (cls_score.argmax(dim=1)[rows] == labels).sum()
        return {'acc': hits.float().div(len(cls_score)).mul(100).reshape(1)}
