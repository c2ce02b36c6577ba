"""mmdet's assigners that look at classes, on label sets.

Ground truths have (G, C) bool ``label_sets``, and their index in the batch as ``labels``. With one label for each
ground truth the assignment is the stock one.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.task_modules.assigners import (
    AssignResult,
    DynamicSoftLabelAssigner,
    TaskAlignedAssigner,
)
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor

COSTS = ('FocalLossCost', 'ClassificationCost')


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
