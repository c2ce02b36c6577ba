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
from torch import Tensor

from mmoid.models.class_graph import Hierarchy, ancestor_matrix, label_names_of


@TASK_UTILS.register_module()
class LabelSetSampler:
    """Wraps an RoI sampler; the result gets ``pos_gt_label_sets`` (num_pos, C) bool beside ``pos_gt_labels``.

    Boxes that lie on one object stay separate ground truths, so that every stock transform keeps working; here their
    labels are united. The label set of a positive is: the labels of all ground-truth boxes that overlap its assigned
    one with IoU >= ``same_object_iou``, and all their ancestors.

    Args:
        sampler: Config of the wrapped sampler, such as ``dict(type='RandomSampler', num=512, …)``.
        num_classes: C.
        hierarchy: A prepared store or a (C, C) ancestor matrix. None: labels as they are. Read when the first sample
            is taken, so that testing a model does not need the training data.
        same_object_iou: In (0, 1].
        classes: Names or MIDs by class index, for a data set with a part of the store's classes.
        context: The RoI head, for samplers that ask it (OHEM).
    """

    def __init__(
        self,
        sampler: dict,
        num_classes: int,
        hierarchy: Hierarchy | None = None,
        same_object_iou: float = 0.9,
        classes: Sequence[str] | None = None,
        context: Any = None,
    ) -> None:
        if not 0 < same_object_iou <= 1:
            raise ValueError(f'rcnn.sampler.same_object_iou must be in (0, 1], got {same_object_iou}')
        self.sampler = TASK_UTILS.build(sampler, default_args=dict(context=context))
        self.num_classes = num_classes
        self.hierarchy = hierarchy
        self.same_object_iou = same_object_iou
        self.classes = classes
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
                names = label_names_of(self.hierarchy, self.classes, 'rcnn.sampler')
                matrix = ancestor_matrix(self.hierarchy, self.num_classes, names, 'rcnn.sampler.hierarchy')
                closure += torch.from_numpy(matrix).to(closure)
            self._closure = closure
        return self._closure
