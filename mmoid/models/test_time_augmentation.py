"""LabelSetTTAModel: what a detector finds in several views of an image, merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions.fusion import Fusion, fuse
from mmoid.openimages.predictions.fusion.fusion import require_ensemble_boxes


@MODELS.register_module()
class LabelSetTTAModel(DetTTAModel):
    """mmdet's test-time augmentation, with the merge rules of ensembles besides NMS (``tools/test.py --tta``).

    Classes never meet, so that all labels of an object stay, with the scores that the concurrent softmax gives them.

    Views are made by scale and flip (``TestTimeAug`` in ``tta_pipeline``). Of each the model needs ``ori_shape``, and
    ``flip`` with ``flip_direction`` where it is flipped; the metric needs ``img_id``. Ground truth need not go along:
    ``instances`` and ``image_level_labels`` among the ``meta_keys`` are for mmdet's own OpenImagesMetric.

    Args:
        tta_cfg: One of

            - ``nms=dict(type='nms' or 'soft_nms', iou_threshold=…)``: by mmcv, on the device of the model;
            - ``fusion=dict(method='wbf', 'nmw', 'nms' or 'soft_nms', …)``: the settings of
              :class:`mmoid.openimages.predictions.fusion.Fusion`, each view being a model; by ensemble-boxes, on the CPU.

            and ``max_per_img``, detections that are kept.
        **kwargs: ``module``, the detector, and ``data_preprocessor``, as for ``BaseTTAModel``.

    Raises:
        AnnotationError: Not one of the two, a setting out of range, or ensemble-boxes is missing.
    """

    def __init__(self, tta_cfg: Mapping[str, Any], **kwargs: Any) -> None:
        rules = [name for name in ('nms', 'fusion') if tta_cfg.get(name) is not None]
        if len(rules) != 1:
            raise AnnotationError(
                "tta_model.tta_cfg: needs either nms=dict(type='nms', iou_threshold=0.5) or fusion=dict(method='wbf'), "
                f'it has {" and ".join(rules) or "neither"}'
            )
        most = tta_cfg.get('max_per_img')
        if not isinstance(most, int) or most < 1:
            raise AnnotationError(f'tta_model.tta_cfg.max_per_img: expects a number of detections, got {most!r}')
        self.fusion = _fusion(tta_cfg['fusion'], most) if rules == ['fusion'] else None
        super().__init__(tta_cfg=ConfigDict(tta_cfg), **kwargs)

    def merge_aug_bboxes(
        self, aug_bboxes: Sequence[Tensor], aug_scores: Sequence[Tensor] | None, img_metas: Sequence[dict]
    ) -> Any:
        """As mmdet's, but a view that says nothing of a flip is one without."""
        metas = [{'flip': False, 'flip_direction': None, **meta} for meta in img_metas]
        return super().merge_aug_bboxes(aug_bboxes, aug_scores, metas)

    def _merge_single_sample(self, data_samples: Sequence[DetDataSample]) -> DetDataSample:
        if self.fusion is None:
            return super()._merge_single_sample(data_samples)
        views = [sample.pred_instances for sample in data_samples]
        height, width = data_samples[0].ori_shape
        size = np.array((width, height, width, height), dtype=np.float64)
        parts = []
        for sample, view in zip(data_samples, views):
            bboxes = view.bboxes
            if sample.get('flip', False):
                bboxes = bbox_flip(bboxes, sample.ori_shape, sample.flip_direction)
            parts.append(_for_fusion(bboxes, view.scores, view.labels, size, self.fusion))
        box, score, label = fuse(self.fusion, *zip(*parts))
        order = np.argsort(-score, kind='stable')[: self.fusion.most_per_image]
        like = views[0]
        merged = data_samples[0]
        merged.pred_instances = InstanceData(
            bboxes=torch.from_numpy(box[order] * size).to(like.bboxes),
            scores=torch.from_numpy(score[order]).to(like.scores),
            labels=torch.from_numpy(label[order]).to(like.labels),
        )
        return merged


def _fusion(settings: Mapping[str, Any], most: int) -> Fusion:
    require_ensemble_boxes()
    try:
        return Fusion(**settings, most_per_image=most)
    except (TypeError, AnnotationError) as error:
        raise AnnotationError(f'tta_model.tta_cfg.fusion: {error}') from error


def _for_fusion(
    bboxes: Tensor, scores: Tensor, labels: Tensor, size: np.ndarray, fusion: Fusion
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One view's detections as fractions of the image, such as ensemble-boxes takes without a warning."""
    box = np.clip(bboxes.detach().cpu().numpy() / size, 0, 1)
    score = scores.detach().to(torch.float64).cpu().numpy()
    solid = (box[:, 0] < box[:, 2]) & (box[:, 1] < box[:, 3])
    kept = solid & (score > 0) & (score >= fusion.skip_score)
    return box[kept], score[kept], labels.cpu().numpy()[kept]
