"""LabelSetBBoxHead: a box head whose ground truth is a set of labels for each RoI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from mmengine.model import bias_init_with_prob
from torch import Tensor

from mmoid.models.losses.functional import nonzero
from mmoid.models.losses.label_set_loss import LabelSetLoss


@MODELS.register_module()
class LabelSetBBoxHead(ConvFCBBoxHead):
    """mmdet's box head, trained on label sets.

    The loss gets the sets if it uses them (``loss_cls.uses_label_sets``), else the one label that mmdet assigns; stock
    losses work unchanged. Class-specific regression learns for every label of the set, class-agnostic regression once.
    Targets that Cascade R-CNN passes on to refine boxes stay mmdet's own.

    In a stock config the ``type`` of the head and that of ``loss_cls`` are all that has to change: a loss of mmoid gets
    the number of classes from here.

    Args:
        num_shared_fcs: Shared fully connected layers; 2 makes it the ``Shared2FCBBoxHead`` of Faster R-CNN.
        fc_out_channels: Their width.
        num_classes: C, without background.
        loss_cls: Config of the classification loss.
        **kwargs: As for ``ConvFCBBoxHead``.
    """

    def __init__(
        self,
        num_shared_fcs: int = 2,
        fc_out_channels: int = 1024,
        num_classes: int = 80,
        loss_cls: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if loss_cls is not None:
            kwargs['loss_cls'] = self.completed(loss_cls, num_classes)
        super().__init__(
            num_shared_fcs=num_shared_fcs, fc_out_channels=fc_out_channels, num_classes=num_classes, **kwargs
        )

    @staticmethod
    def completed(loss_cls: dict, num_classes: int) -> dict:
        """The config of a loss; that of one of mmoid's gets C, and loses what a stock cross-entropy left behind."""
        kind = MODELS.get(loss_cls['type']) if isinstance(loss_cls['type'], str) else loss_cls['type']
        if not (isinstance(kind, type) and issubclass(kind, LabelSetLoss)):
            return loss_cls
        own = {key: value for key, value in loss_cls.items() if key != 'use_sigmoid'}  # the type decides that
        return {'num_classes': num_classes, **own}

    def init_weights(self) -> None:
        super().init_weights()
        score = getattr(self.loss_cls, 'initial_score', None)
        if score is not None:
            torch.nn.init.constant_(self.fc_cls.bias, bias_init_with_prob(score))

    @property
    def uses_label_sets(self) -> bool:
        return getattr(self.loss_cls, 'uses_label_sets', False)

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
        if not self.uses_label_sets:
            return super().loss_and_target(
                cls_score, bbox_pred, rois, sampling_results, rcnn_train_cfg, concat, reduction_override
            )
        targets = self.get_targets(sampling_results, rcnn_train_cfg, concat=True)
        _, label_weights, bbox_targets, bbox_weights = targets
        label_sets = self.label_sets(sampling_results)
        losses = self.loss(
            cls_score, None, rois, label_sets, label_weights, bbox_targets, bbox_weights, reduction_override
        )  # fmt: skip
        if bbox_pred is not None:
            losses['loss_bbox'] = self.loss_of_boxes(
                bbox_pred, rois, label_sets, bbox_targets, bbox_weights, reduction_override
            )
        return dict(loss_bbox=losses, bbox_targets=targets)

    def label_sets(self, sampling_results: Sequence[SamplingResult]) -> Tensor:
        """(N, C) bool label set of every RoI, in the order of ``get_targets``; background has none."""
        sets = []
        for result in sampling_results:
            if not hasattr(result, 'pos_gt_label_sets'):
                raise ValueError(
                    f'{type(self.loss_cls).__name__} needs label sets: wrap train_cfg.rcnn.sampler, '
                    "dict(type='mmoid.LabelSetSampler', sampler=dict(…), num_classes=…)"
                )
            positives = result.pos_gt_label_sets
            sets += [positives, positives.new_zeros(len(result.neg_priors), self.num_classes)]
        return torch.cat(sets)

    def loss_of_boxes(
        self,
        bbox_pred: Tensor,
        rois: Tensor,
        label_sets: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Regression loss of positives: once for each label of the set, or once for all if class-agnostic.

        Args:
            bbox_pred: (N, 4) if class-agnostic, else (N, 4 C).
            rois: (N, 5) image index and box.
            label_sets: (N, C) bool.
            bbox_targets: (N, 4).
            bbox_weights: (N, 4).
            reduction_override: As in mmdet.
        """
        if self.reg_class_agnostic:
            rows = label_sets.any(dim=1).nonzero().squeeze(1)
            channel = torch.zeros_like(rows)
        else:
            rows, channel = nonzero(label_sets)
        if not len(rows):
            return bbox_pred.sum() * 0
        if self.reg_decoded_bbox:
            bbox_pred = get_box_tensor(self.bbox_coder.decode(rois[:, 1:], bbox_pred))
        predicted = bbox_pred.reshape(len(bbox_pred), -1, bbox_targets.shape[1])[rows, channel]
        return self.loss_bbox(
            predicted,
            bbox_targets[rows],
            bbox_weights[rows],
            avg_factor=len(bbox_targets),
            reduction_override=reduction_override,
        )
