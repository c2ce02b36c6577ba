"""Label sets in two-stage detectors: LabelSetSampler finds them, LabelSetBBoxHead trains on them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.models.task_modules.assigners import AssignResult
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from mmengine.logging import print_log
from mmengine.model import bias_init_with_prob
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmoid.models.class_lists import Hierarchy, ancestor_matrix, class_matrix, label_names_of, rows_of
from mmoid.models.label_sets import AncestorBuffer, Unverified, VerifiedClasses, loss_config


@TASK_UTILS.register_module()
class LabelSetSampler:
    """Wraps an RoI sampler; its result also gets ``pos_gt_label_sets`` (num_pos, C) bool.

    Boxes that lie on one object stay separate ground truths, so that every stock transform works. Here their labels are
    united. The label set of a positive holds the labels of all boxes on the object of its assigned box. An object is a
    connected component of boxes with IoU >= ``same_object_iou``, as in the statistics
    (:mod:`mmoid.openimages.statistics.objects`). The statistics exclude group-of boxes. mmdet's transforms do not keep
    that flag, so set ``group_of='ignore'`` or ``'drop'`` in :class:`mmoid.OpenImagesHierarchyDataset` to exclude them
    here.

    In a stock config only the ``type`` of ``train_cfg.rcnn.sampler`` has to change, and ``sampler`` names the type that
    it had: the other keys go to that sampler. The classes are those of the box head.

    Args:
        sampler: Config of the wrapped sampler, or its type, such as ``'OHEMSampler'``. None: ``RandomSampler``, with a
            warning.
        num_classes: C; that of the box head if None.
        ancestors: Whether label sets also hold the ancestors of the annotated labels. Losses that sum over the labels
            of a box, such as :class:`mmoid.ConcurrentSoftmaxLoss`, then weigh a box by their number, against
            background too; that gains nothing (docs/reproduction.md).
        hierarchy: For ``ancestors``: a prepared store, the official JSON, or a (C, C) ancestor matrix; that of the box
            head's loss if None. It is read with the first sample, so that testing a model does not need it.
        same_object_iou: In (0, 1].
        classes: (C,) MIDs or display names, for a data set with some of the store's classes; those of the box head's
            loss if None.
        context: The RoI head; mmdet passes it.
        num, pos_fraction, neg_pos_ub, add_gt_as_proposals: Arguments of the wrapped sampler if ``sampler`` is a type.

    Raises:
        ValueError: ``num`` is missing, or given beside a config; ``same_object_iou`` out of range, no number of
            classes, ``ancestors`` without a hierarchy.
    """

    def __init__(
        self,
        sampler: dict | str | type | None = None,
        num_classes: int | None = None,
        ancestors: bool = False,
        hierarchy: Hierarchy | None = None,
        same_object_iou: float = 0.9,
        classes: Sequence[str] | None = None,
        context: Any = None,
        num: int | None = None,
        pos_fraction: float = 0.25,
        neg_pos_ub: int = -1,
        add_gt_as_proposals: bool = True,
    ) -> None:
        if not 0 < same_object_iou <= 1:
            raise ValueError(f'rcnn.sampler.same_object_iou must be in (0, 1], got {same_object_iou}')
        if isinstance(sampler, dict) != (num is None):
            raise ValueError('rcnn.sampler needs either num and the type of a sampler, or sampler = dict(type=...)')
        if sampler is None:
            message = "LabelSetSampler: sampling at random; name any other RoI sampler, as in sampler='OHEMSampler'"
            print_log(message, 'current', logging.WARNING)
        if not isinstance(sampler, dict):
            sampler = dict(type=sampler or 'mmdet.RandomSampler', num=num, pos_fraction=pos_fraction)
            sampler |= dict(neg_pos_ub=neg_pos_ub, add_gt_as_proposals=add_gt_as_proposals)
        self.sampler = TASK_UTILS.build(sampler, default_args=dict(context=context))
        head: Any = getattr(context, 'bbox_head', None)
        if isinstance(head, nn.ModuleList):  # Cascade R-CNN has a head and a sampler for each stage
            head = head[context.current_stage]
        if num_classes is None and head is None:
            raise ValueError('rcnn.sampler.num_classes is needed without a box head')
        self.num_classes: int = num_classes or head.num_classes
        self.ancestors = ancestors
        self.hierarchy = getattr(head, 'hierarchy', None) if hierarchy is None else hierarchy
        if ancestors and self.hierarchy is None:
            raise ValueError('rcnn.sampler.ancestors=True needs a hierarchy, here or in loss_cls')
        self.classes = getattr(head, 'classes', None) if classes is None else classes
        self.label_names = getattr(head, 'label_names', None)
        self.same_object_iou = same_object_iou
        self._ancestors: Tensor | None = None

    def sample(
        self, assign_result: AssignResult, pred_instances: InstanceData, gt_instances: InstanceData, **kwargs: Any
    ) -> SamplingResult | tuple[SamplingResult, Any]:
        """What the wrapped sampler returns, with ``pos_gt_label_sets`` and ``gt_instances`` added.

        ``kwargs`` are the wrapped sampler's.
        """
        found = self.sampler.sample(assign_result, pred_instances, gt_instances, **kwargs)
        result = found[0] if isinstance(found, tuple) else found  # ScoreHLRSampler also returns weights
        sets = self.label_sets(get_box_tensor(gt_instances.bboxes), gt_instances.labels)
        result.pos_gt_label_sets = sets[result.pos_assigned_gt_inds]
        result.gt_instances = gt_instances
        return found

    def label_sets(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """(G, C) bool label sets of G ground truths: (G, 4) xyxy boxes in any unit, (G,) class indices."""
        sets = F.one_hot(labels, self.num_classes).bool()
        if self.ancestors:
            sets |= rows_of(self._ancestors_of(boxes.device), labels)
        return same_objects(boxes, self.same_object_iou) @ sets.float() > 0

    def _ancestors_of(self, device: torch.device) -> Tensor:
        """(C, C) bool, dense or sparse, read with the first sample."""
        if self._ancestors is None or self._ancestors.device != device:
            names = label_names_of(self.hierarchy, self.classes, 'rcnn.sampler') or self.label_names
            assert self.hierarchy is not None
            matrix = ancestor_matrix(self.hierarchy, self.num_classes, names, 'rcnn.sampler.hierarchy')
            self._ancestors = class_matrix(matrix).to(device)
        return self._ancestors


def same_objects(boxes: Tensor, iou: float) -> Tensor:
    """(G, G) float, 1 where two of (G, 4) xyxy boxes lie on one object: connected by boxes with at least this IoU."""
    same = (bbox_overlaps(boxes, boxes) >= iou).float()
    same.fill_diagonal_(1)  # an empty box has IoU 0 even with itself
    # Squaring doubles the length of the chains of boxes, and a chain has at most G boxes. A GPU does not wait here, as
    # it would for the number of components.
    for _ in range((len(boxes) - 1).bit_length()):
        same = (same @ same).clamp(max=1)
    return same


@MODELS.register_module()
class LabelSetBBoxHead(AncestorBuffer, ConvFCBBoxHead):
    """mmdet's box head, trained on label sets.

    The loss receives the sets if it uses them (``loss_cls.uses_label_sets``), otherwise the one label that mmdet
    assigns; stock losses work unchanged. Class-specific regression learns for every label of the set, class-agnostic
    regression once. The targets with which Cascade R-CNN refines boxes are mmdet's own.

    In a stock config only the ``type`` of the head and of ``loss_cls`` has to change. One option,
    ``loss_cls.type=DistCELoss``, swaps the losses of mmoid: each receives the number of classes from the head, and
    those of ``use_sigmoid``, ``concurrent_rates``, ``hierarchy``, ``hierarchy_rate`` and ``rates_from`` that its
    constructor has.

    At test time every detection also counts for the ancestors of its class, and NMS runs over the own and the added
    boxes of each class, as :func:`mmoid.openimages.predictions.ancestors.add_ancestors` does: a parent never scores
    below its child on the same box. ``max_per_img`` limits the detections before ancestors are added. The ancestors are
    a buffer (:class:`~mmoid.models.class_lists.ClassBuffer`), so a trained model needs no data files.

    An empty ground-truth box is no target: the RoIs assigned to it have weight 0.

    Args:
        num_shared_fcs: Shared fully connected layers; 2 makes it the ``Shared2FCBBoxHead`` of Faster R-CNN.
        fc_out_channels: Their width.
        num_classes: C, without background.
        loss_cls: Config of the classification loss. Its ``hierarchy`` gives the ancestors.
        add_ancestors: Whether to add ancestors at test time.
        unverified: What the classes are that nobody verified in an image; see
            :class:`~mmoid.models.label_sets.VerifiedClasses`. Not with stock losses.
        num_sampled: Classes that ``unverified='sample'`` draws.
        **kwargs: As for ``ConvFCBBoxHead``, which takes the arguments of its own base in the same way.
    """

    def __init__(
        self,
        num_shared_fcs: int = 2,
        fc_out_channels: int = 1024,
        num_classes: int = 80,
        loss_cls: dict | None = None,
        add_ancestors: bool = True,
        unverified: Unverified = 'negative',
        num_sampled: int = 50,
        **kwargs: Any,
    ) -> None:
        given = dict(loss_cls or dict(type='mmdet.CrossEntropyLoss'))
        own_loss = loss_config(given, num_classes)
        if unverified != 'negative' and own_loss is None:
            raise ValueError(f'bbox_head.unverified={unverified!r} needs a loss of mmoid, such as mmoid.SoftmaxLoss')
        kwargs['loss_cls'] = own_loss or given
        super().__init__(
            num_shared_fcs=num_shared_fcs, fc_out_channels=fc_out_channels, num_classes=num_classes, **kwargs
        )
        self.hierarchy, self.classes = given.get('hierarchy'), given.get('classes')  # LabelSetSampler reads them
        self.add_ancestors = add_ancestors
        self.verified = VerifiedClasses(unverified, num_sampled, num_classes, self.hierarchy)
        self.set_ancestors(given)

    def init_weights(self) -> None:
        super().init_weights()
        score = getattr(self.loss_cls, 'initial_score', None)
        if score is not None:
            nn.init.constant_(self.fc_cls.bias, bias_init_with_prob(score))

    def predict_by_feat(self, *args: Any, rcnn_test_cfg: Any = None, **kwargs: Any) -> list[InstanceData]:
        """As in mmdet, with ancestors added; without ``rcnn_test_cfg`` there is no NMS, and none are added."""
        results = super().predict_by_feat(*args, rcnn_test_cfg=rcnn_test_cfg, **kwargs)
        return results if rcnn_test_cfg is None else self.with_ancestors(results, rcnn_test_cfg.nms)

    def loss_and_target(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        rois: Tensor,
        sampling_results: list[SamplingResult],
        rcnn_train_cfg: Any,
        concat: bool = True,
        reduction_override: str | None = None,
    ) -> dict:
        """As in mmdet; ``sampling_results`` must come from :class:`LabelSetSampler` if the loss uses label sets."""
        uses_sets = getattr(self.loss_cls, 'uses_label_sets', False)
        if not uses_sets and self.verified.unverified == 'negative':
            return super().loss_and_target(
                cls_score, bbox_pred, rois, sampling_results, rcnn_train_cfg, concat, reduction_override
            )
        targets = self.get_targets(sampling_results, rcnn_train_cfg, concat=True)
        labels, label_weights, bbox_targets, bbox_weights = targets
        boxes = bbox_targets, bbox_weights, reduction_override
        sets = self.label_sets(sampling_results)
        if not uses_sets:
            sets = F.one_hot(labels, self.num_classes + 1)[:, :-1].bool()
        counts = [len(result.priors) for result in sampling_results]
        judged = self.verified.mark(sets, [result.gt_instances for result in sampling_results], counts)
        losses = self.loss(cls_score, None, rois, judged, label_weights, *boxes)
        if bbox_pred is not None and uses_sets:
            losses['loss_bbox'] = self._loss_of_boxes(bbox_pred, rois, sets, *boxes)
        elif bbox_pred is not None:
            losses |= self.loss(None, bbox_pred, rois, labels, label_weights, *boxes)
        return dict(loss_bbox=losses, bbox_targets=targets)

    def _get_targets_single(
        self, pos_priors: Tensor, neg_priors: Tensor, pos_gt_bboxes: Tensor, pos_gt_labels: Tensor, cfg: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As in mmdet, with weight 0 for positives of an empty box, whose offsets are not finite."""
        targets = super()._get_targets_single(pos_priors, neg_priors, pos_gt_bboxes, pos_gt_labels, cfg)
        boxes = get_box_tensor(pos_gt_bboxes)
        empty = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
        for target in targets[1:]:
            target[: len(boxes)].masked_fill_(empty.reshape(-1, *[1] * (target.dim() - 1)), 0)
        return targets

    def label_sets(self, sampling_results: Sequence[SamplingResult]) -> Tensor:
        """(N, C) bool label set of every RoI, in the order of ``get_targets``; background has none."""
        sets = []
        for result in sampling_results:
            if not hasattr(result, 'pos_gt_label_sets'):
                raise ValueError(
                    f'{type(self.loss_cls).__name__} needs label sets: set train_cfg.rcnn.sampler.type to '
                    'mmoid.LabelSetSampler'
                )
            positives = result.pos_gt_label_sets
            sets += [positives, positives.new_zeros(len(result.neg_priors), self.num_classes)]
        return torch.cat(sets)

    def _loss_of_boxes(
        self, bbox_pred: Tensor, rois: Tensor, sets: Tensor, targets: Tensor, weights: Tensor, reduction: str | None
    ) -> Tensor:
        """Regression loss of positives: once for each label of (N, C) sets, or once for all if class-agnostic."""
        learned = sets.any(dim=1, keepdim=True) if self.reg_class_agnostic else sets
        rows, channel = learned.nonzero(as_tuple=True)
        if not len(rows):
            return bbox_pred.sum() * 0
        if self.reg_decoded_bbox:
            bbox_pred = get_box_tensor(self.bbox_coder.decode(rois[:, 1:], bbox_pred))
        predicted = bbox_pred.reshape(len(bbox_pred), -1, targets.shape[1])[rows, channel]
        options = dict(avg_factor=len(targets), reduction_override=reduction)
        return self.loss_bbox(predicted, targets[rows], weights[rows], **options)
