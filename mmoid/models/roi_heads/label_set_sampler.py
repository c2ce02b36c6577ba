"""LabelSetSampler: gives the positives of any RoI sampler their label sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.task_modules.assigners import AssignResult
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmoid.models.class_graph import Hierarchy, ancestor_matrix, label_names_of

RANDOM_SAMPLER = ('num', 'pos_fraction', 'neg_pos_ub', 'add_gt_as_proposals')


@TASK_UTILS.register_module()
class LabelSetSampler:
    """Wraps an RoI sampler; the result gets ``pos_gt_label_sets`` (num_pos, C) bool beside ``pos_gt_labels``.

    Boxes that lie on one object stay separate ground truths, so that every stock transform keeps working; here their
    labels are united. The label set of a positive is: the labels of all ground-truth boxes that overlap its assigned
    one with IoU >= ``same_object_iou``, and all their ancestors.

    In a stock config the ``type`` of ``train_cfg.rcnn.sampler`` is all that has to change: the keys beside it become
    those of the wrapped ``RandomSampler``, and what the box head and its loss know is taken from there.

    Args:
        sampler: Config of the wrapped sampler, such as ``dict(type='OHEMSampler', num=512, …)``.
        num_classes: C; by default that of the box head.
        hierarchy: A prepared store, the official JSON, or a (C, C) ancestor matrix; by default that of the head's loss.
            Where that has none either, labels stay as they are. Read when the first sample is taken, so that testing
            a model does not need the training data.
        same_object_iou: In (0, 1].
        classes: Names or MIDs by class index, for a data set with a part of the store's classes; by default those of
            the head's loss.
        context: The RoI head.
        num, pos_fraction, neg_pos_ub, add_gt_as_proposals: Of a ``RandomSampler``, instead of ``sampler``.

    Raises:
        ValueError: Neither or both of ``sampler`` and ``num``, ``same_object_iou`` out of range, no head and no
            ``num_classes``.
    """

    def __init__(
        self,
        sampler: dict | None = None,
        num_classes: int | None = None,
        hierarchy: Hierarchy | None = None,
        same_object_iou: float = 0.9,
        classes: Sequence[str] | None = None,
        context: Any = None,
        **random_sampler: Any,
    ) -> None:
        if not 0 < same_object_iou <= 1:
            raise ValueError(f'rcnn.sampler.same_object_iou must be in (0, 1], got {same_object_iou}')
        wrapped = self._wrapped(sampler, random_sampler)
        self.sampler = TASK_UTILS.build(wrapped, default_args=dict(context=context))
        head = getattr(context, 'bbox_head', None)
        if isinstance(head, nn.ModuleList):  # Cascade R-CNN: one for each stage, and a sampler for each
            head = head[context.current_stage]
        loss = getattr(head, 'loss_cls', None)
        of_head: Any = getattr(head, 'num_classes', 0)
        self.num_classes: int = num_classes or of_head
        if not self.num_classes:
            raise ValueError('rcnn.sampler.num_classes is needed where there is no box head')
        self.hierarchy = getattr(loss, 'hierarchy', None) if hierarchy is None else hierarchy
        self.classes = getattr(loss, 'classes', None) if classes is None else classes
        self.label_names = getattr(loss, 'label_names', None)
        self.same_object_iou = same_object_iou
        self._closure: Tensor | None = None

    def sample(
        self, assign_result: AssignResult, pred_instances: InstanceData, gt_instances: InstanceData, **kwargs: Any
    ) -> SamplingResult:
        """As the wrapped sampler's; see the class for what is added."""
        result = self.sampler.sample(assign_result, pred_instances, gt_instances, **kwargs)
        sets = self.label_sets(get_box_tensor(gt_instances.bboxes), gt_instances.labels)
        result.pos_gt_label_sets = sets[result.pos_assigned_gt_inds]
        return result

    def label_sets(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """(G, C) bool label sets of G ground truths: (G, 4) xyxy boxes in any unit, (G,) class indices."""
        same = bbox_overlaps(boxes, boxes) >= self.same_object_iou
        same.fill_diagonal_(True)  # an empty box has IoU 0 even with itself
        with_ancestors = self._ancestors_and_self(boxes.device)[labels]
        return (same.float() @ with_ancestors) > 0

    def _ancestors_and_self(self, device: torch.device) -> Tensor:
        if self._closure is None or self._closure.device != device:
            closure = torch.eye(self.num_classes, device=device)
            if self.hierarchy is not None:
                names = label_names_of(self.hierarchy, self.classes, 'rcnn.sampler') or self.label_names
                matrix = ancestor_matrix(self.hierarchy, self.num_classes, names, 'rcnn.sampler.hierarchy')
                closure += torch.from_numpy(matrix).to(closure)
            self._closure = closure
        return self._closure

    @staticmethod
    def _wrapped(sampler: dict | None, random_sampler: dict) -> dict:
        unknown = sorted(set(random_sampler) - set(RANDOM_SAMPLER))
        if unknown:
            raise ValueError(
                f'rcnn.sampler.{unknown[0]} is no argument of LabelSetSampler; those of another sampler than '
                'RandomSampler belong into rcnn.sampler.sampler = dict(type=…), with _delete_=True'
            )
        if (sampler is None) == (not random_sampler):
            raise ValueError(
                'rcnn.sampler needs either sampler=dict(type=…) or the arguments of a RandomSampler, '
                'num=512, pos_fraction=0.25'
            )
        return sampler or dict(type='mmdet.RandomSampler', **random_sampler)
