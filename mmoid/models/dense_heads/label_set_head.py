"""LabelSetHead: what mmdet's one-stage and DETR-type heads need to train on label sets."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import (
    ATSSHead,
    DeformableDETRHead,
    DINOHead,
    FCOSHead,
    GFLHead,
    RetinaHead,
    RTMDetSepBNHead,
    TOODHead,
)
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor

from mmoid.models.class_lists import rows_of
from mmoid.models.dense_heads.assigners import with_set_assigners
from mmoid.models.label_sets import AncestorBuffer, Unverified, VerifiedClasses, loss_config
from mmoid.models.losses.base import LabelSetLoss, LabelSetTable
from mmoid.models.losses.sigmoid import SigmoidLoss
from mmoid.models.roi_heads.label_set_sampler import same_objects

LOSS_CLASSES = ('concurrent_rates', 'hierarchy', 'hierarchy_rate', 'rates_from', 'classes')


class LabelSetHead(AncestorBuffer):
    """Mixin for mmdet's one-stage and DETR-type heads: the target of a box is the label set of its object.

    mmdet's heads copy the label of the assigned ground truth to each place. While they compute their losses, that label
    is the index of the ground truth, and background is the number of ground truths. The loss looks the label sets up
    (:class:`~mmoid.models.losses.base.LabelSetTable`). So a head's own code runs unchanged. With one label for each
    object and no rates a training step is that of the stock head.

    An object is what :class:`mmoid.LabelSetSampler` takes for one. Assigners that look at classes are exchanged for
    those of :mod:`mmoid.models.dense_heads.assigners`. Test-time detections get ancestors as in
    :class:`mmoid.LabelSetBBoxHead`.

    Args:
        num_classes: C.
        loss_cls: Config of the loss, of a sigmoid loss of mmoid: :class:`mmoid.ConcurrentFocalLoss`, or
            :class:`mmoid.ConcurrentQualityFocalLoss` where the stock head has ``QualityFocalLoss``. Its ``hierarchy``
            gives the ancestors.
        sets_with_ancestors: Whether label sets also hold the ancestors of the annotated labels.
        same_object_iou: IoU from which two boxes are on one object, in (0, 1].
        add_ancestors: Whether to add ancestors at test time.
        unverified, num_sampled: See :class:`~mmoid.models.label_sets.VerifiedClasses`.
        **kwargs: As for the stock head.

    Raises:
        ValueError: A loss that is not a sigmoid loss of mmoid, ``same_object_iou`` out of range.
    """

    num_classes: int

    def __init__(
        self,
        *,
        num_classes: int,
        loss_cls: dict,
        sets_with_ancestors: bool = True,
        same_object_iou: float = 0.9,
        add_ancestors: bool = True,
        unverified: Unverified = 'negative',
        num_sampled: int = 50,
        **kwargs: Any,
    ) -> None:
        if not 0 < same_object_iou <= 1:
            raise ValueError(f'bbox_head.same_object_iou must be in (0, 1], got {same_object_iou}')
        classes_of_loss = {key: loss_cls[key] for key in LOSS_CLASSES if key in loss_cls}
        given = {'loss_cls': loss_cls}
        if 'initial_loss_cls' in kwargs:  # TOOD's
            given['initial_loss_cls'] = {**classes_of_loss, **kwargs['initial_loss_cls']}
        own = {key: self._build_loss(key, config, num_classes) for key, config in given.items()}
        # mmdet's heads only ask whether their loss is of sigmoids.
        kwargs |= {key: dict(type='mmdet.FocalLoss', use_sigmoid=True) for key in given}
        if kwargs.get('train_cfg'):
            kwargs['train_cfg'] = with_set_assigners(kwargs['train_cfg'])
        super().__init__(num_classes=num_classes, **kwargs)
        for key, loss in own.items():
            setattr(self, key, loss)
        self.set_losses: list[LabelSetLoss] = list(own.values())
        self.sets_with_ancestors = sets_with_ancestors
        self.same_object_iou = same_object_iou
        self.add_ancestors = add_ancestors
        self.verified = VerifiedClasses(unverified, num_sampled, num_classes, loss_cls.get('hierarchy'))
        self.set_ancestors(loss_cls)

    @staticmethod
    def _build_loss(key: str, given: dict, num_classes: int) -> SigmoidLoss:
        config = loss_config(given, num_classes)
        loss = None if config is None else MODELS.build(config)
        if not isinstance(loss, SigmoidLoss):
            raise ValueError(
                f'bbox_head.{key}.type = {given["type"]}: a head of label sets needs mmoid.ConcurrentFocalLoss, or '
                'mmoid.ConcurrentQualityFocalLoss instead of QualityFocalLoss'
            )
        loss.has_background = loss.custom_cls_channels = loss.custom_accuracy = False
        loss.use_sigmoid = True  # DETR-type heads ask the loss
        return loss

    def init_weights(self) -> None:
        super().init_weights()
        for loss in self.set_losses:  # those of DETR-type heads leave it out
            loss.init_weights()

    def loss_by_feat(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """As in the stock head, on label sets."""
        stock: Any = super()
        bound = inspect.signature(stock.loss_by_feat).bind(*args, **kwargs)
        boxes = self.indexed(bound.arguments['batch_gt_instances'])
        with self.label_sets(boxes, self.image_of_row(bound.arguments)):
            bound.arguments['batch_gt_instances'] = self.ground_truths(boxes)
            return stock.loss_by_feat(*bound.args, **bound.kwargs)

    def indexed(self, batch_gt_instances: Sequence[InstanceData]) -> list[InstanceData]:
        """The same with their index in the batch as ``labels``, (G, C) bool ``label_sets``, (G,) ``first_box``."""
        found, first = [], 0
        for instances in batch_gt_instances:
            same = same_objects(get_box_tensor(instances.bboxes), self.same_object_iou)
            indexed = instances[:]
            labels = F.one_hot(instances.labels, self.num_classes).bool()
            if self.sets_with_ancestors:
                labels |= rows_of(self.class_buffer(), instances.labels)
            indexed.label_sets = same @ labels.float() > 0
            indexed.first_box = (same.cumsum(dim=1) == 0).sum(dim=1)  # of the object, in the image
            indexed.labels = torch.arange(first, first + len(instances), device=same.device)
            first += len(instances)
            found.append(indexed)
        return found

    def ground_truths(self, boxes: list[InstanceData]) -> list[InstanceData]:
        """Those that are assigned to predictions."""
        return boxes

    @contextmanager
    def label_sets(self, boxes: Sequence[InstanceData], image_of_row: Tensor | None) -> Iterator[None]:
        """While it lasts, labels are the indices that :meth:`indexed` gave."""
        sets = torch.cat([instances.label_sets for instances in boxes])
        num_boxes = len(sets)
        sets = F.pad(sets.to(torch.int8), (0, 0, 0, len(boxes)))
        judged = self.verified.judged(boxes, sets.device)
        if judged is not None:
            counts = torch.tensor([len(instances) for instances in boxes], device=sets.device)
            of_box = judged.repeat_interleave(counts, dim=0, output_size=num_boxes)
            sets = sets.masked_fill((sets == 0) & ~torch.cat([of_box, judged]), -1)
        table = LabelSetTable(sets, num_boxes, image_of_row)
        num_classes, self.num_classes = self.num_classes, num_boxes  # the stock code's label of background
        self.boxes = boxes
        try:
            for loss in self.set_losses:
                loss.table = table
            yield
        finally:
            self.num_classes, self.boxes = num_classes, ()
            for loss in self.set_losses:
                loss.table = None

    def image_of_row(self, arguments: dict[str, Any]) -> Tensor | None:
        """See :class:`~mmoid.models.losses.base.LabelSetTable`."""
        return None

    def predict_by_feat(self, *args: Any, **kwargs: Any) -> list[InstanceData]:
        """As in the stock head, with ancestors added; without NMS, as for test-time augmentation, none are added."""
        results = super().predict_by_feat(*args, **kwargs)  # type: ignore[misc]
        if not kwargs.get('with_nms', True):
            return results
        return self.with_ancestors(results, (self.test_cfg or {}).get('nms') or {})


@MODELS.register_module()
class LabelSetRetinaHead(LabelSetHead, RetinaHead):
    """RetinaNet on label sets; see :class:`LabelSetHead`."""


@MODELS.register_module()
class LabelSetATSSHead(LabelSetHead, ATSSHead):
    """ATSS on label sets; see :class:`LabelSetHead`."""


@MODELS.register_module()
class LabelSetGFLHead(LabelSetHead, GFLHead):
    """GFL on label sets, with :class:`mmoid.ConcurrentQualityFocalLoss`; see :class:`LabelSetHead`."""


@MODELS.register_module()
class LabelSetFCOSHead(LabelSetHead, FCOSHead):
    """FCOS on label sets; see :class:`LabelSetHead`."""

    def image_of_row(self, arguments: dict[str, Any]) -> Tensor:
        """FCOS takes one level after the other, with all images in each."""
        images = torch.arange(len(arguments['batch_img_metas']), device=arguments['cls_scores'][0].device)
        return torch.cat([images.repeat_interleave(score[0, 0].numel()) for score in arguments['cls_scores']])


@MODELS.register_module()
class LabelSetRTMDetSepBNHead(LabelSetHead, RTMDetSepBNHead):
    """RTMDet on label sets, with :class:`mmoid.ConcurrentQualityFocalLoss`; see :class:`LabelSetHead`."""


@MODELS.register_module()
class LabelSetTOODHead(LabelSetHead, TOODHead):
    """TOOD on label sets; see :class:`LabelSetHead`.

    ``loss_cls`` is :class:`mmoid.ConcurrentQualityFocalLoss`, ``initial_loss_cls`` :class:`mmoid.ConcurrentFocalLoss`,
    both with ``activated=True``.
    """


class LabelSetQueryHead(LabelSetHead):
    """Mixin for DETR-type heads: the boxes of one object are one ground truth, so that one query is matched to it."""

    def ground_truths(self, boxes: list[InstanceData]) -> list[InstanceData]:
        return [
            instances[instances.first_box == torch.arange(len(instances), device=instances.first_box.device)]
            for instances in boxes
        ]


@MODELS.register_module()
class LabelSetDeformableDETRHead(LabelSetQueryHead, DeformableDETRHead):
    """Deformable DETR on label sets; see :class:`LabelSetHead`.

    Raises:
        ValueError: For ``as_two_stage=True``, whose proposals have one class of their own. DINO is the alternative.
    """

    def __init__(self, *args: Any, as_two_stage: bool = False, **kwargs: Any) -> None:
        if as_two_stage:
            raise ValueError('bbox_head: LabelSetDeformableDETRHead has no as_two_stage=True. Use LabelSetDINOHead')
        super().__init__(*args, **kwargs)


@MODELS.register_module()
class LabelSetDINOHead(LabelSetQueryHead, DINOHead):
    """DINO on label sets; see :class:`LabelSetHead`.

    A denoising query embeds one label. Each box of an object has queries of its own, with its own label, and the label
    set as target.
    """

    def loss_dn(self, *args: Any, **kwargs: Any) -> tuple:
        return super().loss_dn(*args, **{**kwargs, 'batch_gt_instances': self.boxes})
