"""The common parts of the classification losses: targets, class weights, concurrent rates, reduction, accuracy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.losses.utils import weight_reduce_loss
from scipy.sparse import csr_array
from torch import Tensor, nn

from mmoid.models.class_lists import ClassBuffer, Hierarchy, ancestor_matrix, class_matrix, is_missing, label_names_of
from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.sampling.soft_balance import effective_number_weights
from mmoid.openimages.statistics.concurrent_rates import load_rates, without_diagonal
from mmoid.openimages.store.annotation_store import AnnotationStore

ClassWeight: TypeAlias = 'Sequence[float] | np.ndarray | Mapping[str, object]'
Rates: TypeAlias = 'str | Path | np.ndarray | Sequence[Sequence[float]]'


@dataclass(frozen=True)
class LabelSetTable:
    """Label sets that integer labels stand for, while a dense or DETR-type head computes its losses."""

    sets: Tensor  # (S + B, C) int8, see LabelSetLoss.forward: S ground truths, then the background of each of B images
    num_ground_truths: int  # S; labels from S on are background
    image_of_row: Tensor | None = None  # (N,); None if all images have as many rows, one image after the other

    def of(self, labels: Tensor) -> Tensor:
        """(N, C) int8 label sets of (N,) labels."""
        image = self.image_of_row
        if image is None:
            num_images = len(self.sets) - self.num_ground_truths
            image = torch.arange(len(labels), device=labels.device) // max(len(labels) // num_images, 1)
        background = self.num_ground_truths + image
        return self.sets[torch.where(labels < self.num_ground_truths, labels, background)]


class LabelSetLoss(nn.Module, ABC):
    """Base of losses that a box head can swap by ``type`` alone.

    A subclass gives :meth:`row_losses` and :meth:`get_activation`. mmdet's ``BBoxHead`` reads the three ``custom_*``
    attributes, :class:`mmoid.LabelSetBBoxHead` reads ``uses_label_sets`` and ``initial_score``.

    Args:
        num_classes: C, without background.
        class_weight: Factor of all terms of each class: (C,) numbers >= 0, or ``dict(store=folder, beta=β)`` for
            weights by the effective number of samples
            (:func:`~mmoid.openimages.sampling.soft_balance.effective_number_weights`). Background has factor 1, and
            so has every class for None.
        classes: (C,) MIDs or display names, for a data set with some of the store's classes (``metainfo.classes``).
        loss_weight: Factor of the result.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: A bad argument; the message names the config key.
        AnnotationError: A class that the store does not have.
    """

    custom_cls_channels = True
    custom_activation = True
    custom_accuracy = True
    uses_label_sets = True
    use_sigmoid = False
    trains_in_model = False
    initial_score: float | None = None  # that an untrained head gives each class; None leaves the head as it is
    has_background = True  # a last channel of the logits; dense and DETR-type heads have none
    table: LabelSetTable | None = None  # what integer labels stand for; LabelSetHead sets it
    class_weight: Tensor | None  # (C+1,) float32

    def __init__(
        self,
        num_classes: int,
        class_weight: ClassWeight | None = None,
        classes: Sequence[str] | None = None,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f'loss_cls.num_classes must be at least 1, got {num_classes}')
        if reduction not in ('none', 'mean', 'sum'):
            raise ValueError(f'loss_cls.reduction must be one of none, mean, sum, got {reduction!r}')
        if classes is not None and len(classes) != num_classes:
            raise ValueError(f'loss_cls.classes has {len(classes)} classes, num_classes is {num_classes}')
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        self.reduction = reduction
        self.label_names: tuple[str, ...] | None = None  # (C,) MIDs by class index, if the config tells them
        self.missing_store: Path | None = None
        weights, buffer = None, None
        if isinstance(class_weight, Mapping):
            weights = self._effective_number_weights(class_weight, classes)
        elif class_weight is not None:
            weights = np.asarray(class_weight, dtype=np.float64)
        if weights is not None:
            if weights.shape != (num_classes,) or not (np.isfinite(weights) & (weights >= 0)).all():
                raise ValueError(f'loss_cls.class_weight: expects {num_classes} numbers >= 0, got {class_weight!r}')
            buffer = torch.tensor([*weights, 1.0], dtype=torch.float32)
        self.register_buffer('class_weight', buffer, persistent=False)

    def _effective_number_weights(self, source: Mapping, classes: Sequence[str] | None) -> np.ndarray | None:
        """(C,) weights from the boxes of a store; None if the store does not exist. Sets ``label_names``."""
        if set(source) != {'store', 'beta'}:
            raise ValueError(f'loss_cls.class_weight: expects the keys store and beta, got {sorted(source)}')
        if not Path(source['store']).exists():
            self.missing_store = Path(source['store'])  # testing a model does not need it
            return None
        store = AnnotationStore(source['store'])
        self.label_names = label_names_of(store.path, classes, 'loss_cls') or store.label_names
        indices = store.classes.indices(self.label_names, 'loss_cls.class_weight')
        return effective_number_weights(store.class_box_counts[indices], source['beta'])

    def init_weights(self) -> None:
        """Called by mmengine's Runner before training: fail now, not at the first iteration."""
        self.require_files()

    def train(self, mode: bool = True) -> LabelSetLoss:
        """Called by the train loop. mmdet's DETR-type heads do not call ``init_weights`` of their losses."""
        self.trains_in_model |= mode
        return super().train(mode)

    def require_files(self) -> None:
        """Raises AnnotationError if a file that training needs does not exist."""
        if self.missing_store is not None:
            raise AnnotationError(f'loss_cls.class_weight.store = {self.missing_store}: no such store')

    @abstractmethod
    def row_losses(self, cls_score: Tensor, targets: Tensor, judged: Tensor | None) -> Tensor:
        """(N,) losses of (N, C+1) logits against (N, C+1) bool label sets; background is last, no set is empty.

        ``judged`` (N, C+1) is False for classes that are neither labels nor negatives; None: all are one or the other.
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
            labels: (N,) integer class indices with C = background, or label sets (N, C+1) or (N, C), bool or 0 and 1.
                A row without any class is background. -1 is a class that is neither a label nor a negative. int8 is
                not checked, so that a GPU does not wait.
            weight: (N,) weight of each row.
            avg_factor: Divides the sum instead of N, for ``mean`` only.
            reduction_override: Instead of ``reduction``, for this call.

        Returns:
            Scalar, or (N,) for ``none``. 0 for no boxes, also for ``mean``.

        Raises:
            ValueError: Shapes that do not fit each other or ``num_classes``, label sets that are not 0 or 1, a
                head that gives single labels to a loss of label sets, or labels with qualities.
            AnnotationError: A file that training needs does not exist.
        """
        self.require_files()
        if not isinstance(labels, Tensor):
            raise ValueError(
                f'{type(self).__name__} takes labels, and this head gives pairs of labels and qualities: use '
                "loss_cls.type='mmoid.ConcurrentQualityFocalLoss' in a head of docs/any_detector.md"
            )
        if self.table is not None:
            labels = self.table.of(labels)
        is_training = self.trains_in_model and torch.is_grad_enabled()  # RoI samplers such as OHEM's use no gradient
        if self.uses_label_sets and labels.dim() == 1 and is_training:
            raise ValueError(
                f'{type(self).__name__} needs label sets, and this head gives single labels: use '
                "bbox_head.type='mmoid.LabelSetBBoxHead' in a StandardRoIHead or CascadeRoIHead; or a loss of single "
                "labels, such as loss_cls.type='mmoid.SoftmaxLoss'"
            )
        rows, channels = len(labels), self.num_classes + self.has_background
        for name, tensor, shape in (('cls_score', cls_score, (rows, channels)), ('weight', weight, (rows,))):
            if tensor is not None and tensor.shape != shape:  # a weight of (N, 1) would broadcast to (N, N)
                raise ValueError(
                    f'{name} has shape {tuple(tensor.shape)}, expected {shape} for {rows} labels and '
                    f'{self.num_classes} classes'
                )
        losses = self.row_losses(cls_score, *self.targets(labels))
        reduction = reduction_override or self.reduction
        if reduction == 'mean' and not len(losses):
            reduction, avg_factor = 'sum', None  # 0 / 0 would be NaN
        return self.loss_weight * weight_reduce_loss(losses, weight, reduction, avg_factor)

    def targets(self, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, C+1) bool label sets with background last, and which classes are judged (see :meth:`row_losses`).

        ``labels`` has any of the forms that :meth:`forward` takes.
        """
        size = self.num_classes
        if labels.dim() == 1:
            if labels.is_floating_point() or labels.dtype == torch.bool:
                raise ValueError(f'labels of shape ({len(labels)},) must be class indices, got {labels.dtype}')
            targets = labels.new_zeros(len(labels), size + 1, dtype=torch.bool)
            return targets.scatter_(1, labels[:, None].long(), True), None
        if not self.uses_label_sets and labels.dtype != torch.int8:
            raise ValueError(f'{type(self).__name__} takes (N,) class indices, got label sets {tuple(labels.shape)}')
        if labels.dim() != 2 or labels.shape[1] not in (size, size + 1):
            raise ValueError(
                f'labels have shape {tuple(labels.shape)}, expected ({len(labels)},) class indices or ({len(labels)}, '
                f'{size}) label sets, with or without a last column for background'
            )
        labels = labels[:, :size]
        if labels.dtype not in (torch.bool, torch.int8) and not ((labels == 0) | (labels.abs() == 1)).all():
            raise ValueError('label sets must hold only 0 and 1, and -1 for what is neither')
        sets = labels == 1
        targets = torch.cat([sets, ~sets.any(dim=1, keepdim=True)], dim=1)
        return targets, None if labels.dtype == torch.bool else F.pad(labels != -1, (0, 1), value=True)

    def get_cls_channels(self, num_classes: int) -> int:
        """Channels that the head must predict."""
        if num_classes != self.num_classes:
            raise ValueError(f'bbox_head.num_classes is {num_classes}, loss_cls.num_classes is {self.num_classes}')
        return num_classes + 1

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Percentage of rows whose best channel is in their label set."""
        if not len(cls_score):
            return {'acc': cls_score.new_zeros(1)}
        hits = self.targets(labels)[0].gather(1, cls_score.argmax(dim=1, keepdim=True))
        return {'acc': 100 * hits.float().mean().reshape(1)}


class RatesLoss(ClassBuffer, LabelSetLoss):
    """Base of losses that use the concurrent rates r_ij.

    The rates are a buffer (:class:`~mmoid.models.class_lists.ClassBuffer`), so a trained model needs no data files.
    Files that do not exist are an error when training starts, or when the rates are used and no checkpoint has provided
    them.

    Args:
        num_classes: C, without background.
        concurrent_rates: (C, C) array of r_ij, or the ``.npz`` of ``tools/analysis_tools/concurrent_rates.py``, whose
            classes are found by MID. None: 0 except within the hierarchy.
        hierarchy: A prepared store, the official JSON (if an ``.npz`` of rates gives the order of classes), or a
            (C, C) matrix that is true at [i, j] if j is an ancestor of i. None: no class is an ancestor of another.
        hierarchy_rate: r_ij and r_ji of a class and its ancestor; replaces those of ``concurrent_rates``.
        rates_from: Which rates and ancestors a test and ``--resume`` use, those of the ``checkpoint`` or of the
            ``config``. Training from ``load_from`` uses the config's.
        class_weight, classes, loss_weight, reduction: See :class:`LabelSetLoss`.

    Raises:
        ValueError: A bad argument; the message names the config key.
        AnnotationError: A file of rates or a hierarchy that cannot be used or does not hold the classes.
    """

    buffer_name = 'rates'
    rates: Tensor  # float32, see ClassBuffer; background, the last of the C+1, is concurrent with nothing

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
    ) -> None:
        super().__init__(num_classes, class_weight, classes, loss_weight, reduction)
        if not 0 <= hierarchy_rate <= 1:
            raise ValueError(f'loss_cls.hierarchy_rate must be in [0, 1], got {hierarchy_rate}')
        if rates_from not in ('checkpoint', 'config'):
            raise ValueError(f"loss_cls.rates_from must be 'checkpoint' or 'config', got {rates_from!r}")
        self.rates_from = rates_from
        self.label_names = label_names_of(hierarchy, classes, 'loss_cls') or self.label_names
        sources = {'concurrent_rates': concurrent_rates, 'hierarchy': hierarchy}
        self.missing_files = [f'loss_cls.{key} = {path}' for key, path in sources.items() if is_missing(path)]
        rates = csr_array((num_classes, num_classes), dtype=np.float32)
        if not self.missing_files:
            if concurrent_rates is not None:
                rates = self._read_rates(concurrent_rates)
            if hierarchy is not None:
                ancestors = ancestor_matrix(hierarchy, num_classes, self.label_names, 'loss_cls.hierarchy')
                related = (ancestors + ancestors.T).astype(np.float32)
                rates = rates - rates.multiply(related) + hierarchy_rate * related
            rates = without_diagonal(rates)
            rates.eliminate_zeros()
        rates.resize(num_classes + 1, num_classes + 1)
        self.set_class_buffer(class_matrix(rates), concurrent_rates is not None or hierarchy is not None)

    def require_files(self) -> None:
        super().require_files()
        self.require_class_files()

    def _read_rates(self, source: Rates) -> csr_array:
        """(C, C) rates. Sets ``label_names`` if only the file of rates tells them."""
        if isinstance(source, (str, Path)):
            rates, names = load_rates(source)
            self.label_names = self.label_names or names
            classes = ClassNames(names, source=str(source))
            rows = classes.indices(self.label_names, 'loss_cls.concurrent_rates')
            rates = rates[rows][:, rows]
        else:
            rates = csr_array(np.asarray(source, dtype=np.float32))
        shape = (self.num_classes, self.num_classes)
        if rates.shape != shape:
            raise ValueError(
                f'loss_cls.concurrent_rates: has shape {rates.shape}, expected {shape}; for a data set with some of '
                'the classes, give their names as classes = [...]'
            )
        if not ((rates.data >= 0) & (rates.data <= 1)).all():
            raise ValueError(f'loss_cls.concurrent_rates: must be in [0, 1], got {rates.min()} to {rates.max()}')
        return rates
