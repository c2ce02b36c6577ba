"""LabelSetSampler: gives the positives of any RoI sampler their label sets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.task_modules.assigners import AssignResult
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from mmengine.logging import print_log
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmoid.models.class_lists import Hierarchy, ancestor_matrix, class_matrix, label_names_of, rows_of


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
            background too; that cost 1.1 points of mAP (docs/reproduction.md).
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
            sampler = dict(
                type=sampler or 'mmdet.RandomSampler',
                num=num,
                pos_fraction=pos_fraction,
                neg_pos_ub=neg_pos_ub,
                add_gt_as_proposals=add_gt_as_proposals,
            )
        self.sampler = TASK_UTILS.build(sampler, default_args=dict(context=context))
        head: Any = getattr(context, 'bbox_head', None)
        if isinstance(head, nn.ModuleList):  # Cascade R-CNN has a head and a sampler for each stage
            head = head[context.current_stage]
        classes_of_head: Any = getattr(head, 'num_classes', None)
        self.num_classes: int = num_classes or classes_of_head
        if self.num_classes is None:
            raise ValueError('rcnn.sampler.num_classes is needed without a box head')
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
