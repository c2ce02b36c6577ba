"""Label sets in mmdet's one-stage and DETR-type heads, and in those of their assigners that look at classes.

For the assigners, ground truths have (G, C) bool ``label_sets``, and their index in the batch as ``labels``. With one
label for each ground truth the assignment is the stock one.
"""

from __future__ import annotations

import copy
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
from mmdet.models.task_modules.assigners import AssignResult, DynamicSoftLabelAssigner, TaskAlignedAssigner
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor

from mmoid.models.class_lists import rows_of
from mmoid.models.label_sets import AncestorBuffer, Unverified, VerifiedClasses, loss_config
from mmoid.models.losses.base import LabelSetLoss, LabelSetTable
from mmoid.models.losses.sigmoid import SigmoidLoss
from mmoid.models.roi_heads import same_objects

COSTS = ('FocalLossCost', 'ClassificationCost')
LOSS_CLASSES = ('concurrent_rates', 'hierarchy', 'hierarchy_rate', 'rates_from', 'classes')


def with_set_assigners(train_cfg: dict) -> dict:
    """A copy of a head's ``train_cfg`` with the assigners and costs of this module."""
    train_cfg = copy.deepcopy(train_cfg)
    for key, assigner in train_cfg.items():
        if not key.endswith('assigner') or assigner is None:
            continue
        name = _name(assigner)
        if name in ('DynamicSoftLabelAssigner', 'TaskAlignedAssigner'):
            assigner['type'] = f'mmoid.LabelSet{name}'
        for i, cost in enumerate(assigner.get('match_costs', ())):
            if _name(cost) in COSTS:
                assigner['match_costs'][i] = dict(type='mmoid.LabelSetCost', cost=cost)
    return train_cfg


def _name(config: dict) -> str:
    kind = config['type']
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


@TASK_UTILS.register_module()
class LabelSetTaskAlignedAssigner(TaskAlignedAssigner):
    """TOOD's assigner; the score of a prediction for a ground truth is its mean score for the labels of the set."""

    def assign(
        self, pred_instances: InstanceData, gt_instances: InstanceData, *args: Any, **kwargs: Any
    ) -> AssignResult:
        sets = gt_instances.label_sets.to(pred_instances.scores.dtype)
        predictions, indexed = pred_instances[:], gt_instances[:]
        predictions.scores = pred_instances.scores @ (sets / sets.sum(dim=1, keepdim=True)).T
        indexed.labels = torch.arange(len(indexed), device=sets.device)
        result = super().assign(predictions, indexed, *args, **kwargs)
        if len(indexed):
            result.labels = gt_instances.labels[result.gt_inds - 1].where(result.gt_inds > 0, -1)
        return result


@TASK_UTILS.register_module()
class LabelSetDynamicSoftLabelAssigner(DynamicSoftLabelAssigner):
    """RTMDet's assigner; the soft label of a ground truth is its IoU for every label of the set.

    The cost (Lyu et al., "RTMDet", arXiv 2212.07784, Eq. 1-4) sums over classes, so it is not one of mean scores.
    """

    def assign(
        self, pred_instances: InstanceData, gt_instances: InstanceData, *args: Any, **kwargs: Any
    ) -> AssignResult:
        boxes, priors = get_box_tensor(gt_instances.bboxes), pred_instances.priors
        gt_inds = torch.zeros(len(priors), dtype=torch.long, device=priors.device)
        labels = torch.full_like(gt_inds, -1)
        overlaps = torch.zeros_like(priors[:, 0])
        centers = priors[:, None, :2]
        inside = torch.cat([centers - boxes[:, :2], boxes[:, 2:] - centers], dim=2).amin(dim=2) > 0
        valid = inside.any(dim=1)
        if not valid.any():
            return AssignResult(len(boxes), gt_inds, overlaps, labels)
        ious = self.iou_calculator(pred_instances.bboxes[valid], boxes)
        strides = priors[valid, 2]
        distance = (centers[valid] - (boxes[:, :2] + boxes[:, 2:]) / 2).pow(2).sum(dim=2).sqrt() / strides[:, None]
        cost = (
            self._cost_of_scores(pred_instances.scores[valid], gt_instances.label_sets, ious)
            - self.iou_weight * (ious + 1e-7).log()
            + 10 ** (distance - self.soft_center_radius)
        )
        matched_ious, matched = self.dynamic_k_matching(cost, ious, len(boxes), valid)  # leaves the matched in valid
        gt_inds[valid] = matched + 1
        labels[valid] = gt_instances.labels[matched]
        overlaps[:] = -100000000
        overlaps[valid] = matched_ious
        return AssignResult(len(boxes), gt_inds, overlaps, labels)

    @staticmethod
    def _cost_of_scores(logits: Tensor, sets: Tensor, ious: Tensor) -> Tensor:
        """(P, G) quality focal loss of (P, C) logits against each of (G, C) label sets with (P, G) IoUs."""
        soft = sets * ious[:, :, None]
        logits = logits[:, None].expand_as(soft)
        entropy = F.binary_cross_entropy_with_logits(logits, soft, reduction='none')
        return (entropy * (soft - logits.sigmoid()).abs() ** 2).sum(dim=2)


@TASK_UTILS.register_module()
class LabelSetCost:
    """A match cost of classes for :class:`HungarianAssigner`: the mean cost of the labels of each set.

    Args:
        cost: Config of the stock cost, such as ``FocalLossCost``.
    """

    def __init__(self, cost: dict) -> None:
        self.cost = TASK_UTILS.build(cost)

    def __call__(self, pred_instances: InstanceData, gt_instances: InstanceData, **kwargs: Any) -> Tensor:
        """(Q, G) cost of Q predictions for G ground truths."""
        rows, labels = gt_instances.label_sets.nonzero(as_tuple=True)
        cost = self.cost(pred_instances=pred_instances, gt_instances=InstanceData(labels=labels), **kwargs)
        total = cost.new_zeros(len(cost), len(gt_instances)).index_add(1, rows, cost)
        return total / gt_instances.label_sets.sum(dim=1)


class LabelSetHead(AncestorBuffer):
    """Mixin for mmdet's one-stage and DETR-type heads: the target of a box is the label set of its object.

    mmdet's heads copy the label of the assigned ground truth to each place. While they compute their losses, that label
    is the index of the ground truth, and background is the number of ground truths. The loss looks the label sets up
    (:class:`~mmoid.models.losses.base.LabelSetTable`). So a head's own code runs unchanged. With one label for each
    object and no rates a training step is that of the stock head.

    An object is what :class:`mmoid.LabelSetSampler` takes for one. Assigners that look at classes are exchanged for
    those of :mod:`mmoid.models.dense_heads`. Test-time detections get ancestors as in
    :class:`mmoid.LabelSetBBoxHead`.

    Args:
        num_classes: C.
        loss_cls: Config of the loss, of a sigmoid loss of mmoid: :class:`mmoid.ConcurrentFocalLoss`, or
            :class:`mmoid.ConcurrentQualityFocalLoss` where the stock head has ``QualityFocalLoss``. Its ``hierarchy``
            gives the ancestors.
        sets_with_ancestors: Whether label sets also hold the ancestors of the annotated labels. That cost RTMDet 11
            points of mAP, most of them on leaf classes (docs/reproduction.md).
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
        sets_with_ancestors: bool = False,
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
        num_boxes, num_images = len(sets), len(boxes)
        counts = [*map(len, boxes), *[1] * num_images]  # after the ground truths, the background of each image
        sets = self.verified.mark(F.pad(sets, (0, 0, 0, num_images)), [*boxes, *boxes], counts)
        table = LabelSetTable(sets.to(torch.int8), num_boxes, image_of_row)
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
