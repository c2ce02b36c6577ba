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
from mmengine.structures import InstanceData
from torch import Tensor

from mmoid.models.label_sets import AncestorBuffer, Unverified, VerifiedClasses, loss_config


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
            torch.nn.init.constant_(self.fc_cls.bias, bias_init_with_prob(score))

    def predict_by_feat(
        self,
        rois: tuple[Tensor],
        cls_scores: tuple[Tensor],
        bbox_preds: tuple[Tensor],
        batch_img_metas: list[dict],
        rcnn_test_cfg: Any = None,
        rescale: bool = False,
    ) -> list[InstanceData]:
        """As in mmdet, with ancestors added; without ``rcnn_test_cfg`` there is no NMS, and none are added."""
        results = super().predict_by_feat(rois, cls_scores, bbox_preds, batch_img_metas, rcnn_test_cfg, rescale)
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
        if not uses_sets and self.verified.all_are_negative:
            return super().loss_and_target(
                cls_score, bbox_pred, rois, sampling_results, rcnn_train_cfg, concat, reduction_override
            )
        targets = self.get_targets(sampling_results, rcnn_train_cfg, concat=True)
        labels, label_weights, bbox_targets, bbox_weights = targets
        boxes = bbox_targets, bbox_weights, reduction_override
        sets = self.label_sets(sampling_results)
        if not uses_sets:
            sets = torch.nn.functional.one_hot(labels, self.num_classes + 1)[:, :-1].bool()
        losses = self.loss(cls_score, None, rois, self._with_unverified(sets, sampling_results), label_weights, *boxes)
        if bbox_pred is not None and uses_sets:
            losses['loss_bbox'] = self.loss_of_boxes(bbox_pred, rois, sets, *boxes)
        elif bbox_pred is not None:
            losses |= self.loss(None, bbox_pred, rois, labels, label_weights, *boxes)
        return dict(loss_bbox=losses, bbox_targets=targets)

    def _with_unverified(self, sets: Tensor, sampling_results: Sequence[SamplingResult]) -> Tensor:
        """(N, C) bool label sets; as int8 with -1 for classes that are no negatives, if there are such."""
        judged = self.verified.judged([result.gt_instances for result in sampling_results], sets.device)
        if judged is None:
            return sets
        counts = torch.tensor([len(result.priors) for result in sampling_results], device=sets.device)
        judged = judged.repeat_interleave(counts, dim=0, output_size=len(sets))
        return sets.to(torch.int8).masked_fill(~(judged | sets), -1)

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
        learned = label_sets.any(dim=1, keepdim=True) if self.reg_class_agnostic else label_sets
        rows, channel = learned.nonzero(as_tuple=True)
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
