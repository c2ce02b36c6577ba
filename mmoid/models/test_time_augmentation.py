"""LabelSetTTAModel: merges the detections of several views of an image."""

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
from torch import nn

from mmoid.openimages.predictions.ensemble import Fusion, fuse


@MODELS.register_module()
class LabelSetTTAModel(DetTTAModel):
    """mmdet's test-time augmentation, with the fusion methods of ensembles besides NMS (``tools/test.py --tta``).

    Boxes of different classes are independent, so an object keeps all its labels and their scores.

    Views are made by scale and flip (``TestTimeAug`` in ``tta_pipeline``). The model needs ``ori_shape`` of each view,
    and ``flip`` with ``flip_direction`` if it is flipped; the metric needs ``img_id``.

    Args:
        tta_cfg: ``max_per_img``, the number of detections to keep, and one of

            - ``nms=dict(type='nms' or 'soft_nms', iou_threshold=...)``: by mmcv, on the device of the model;
            - ``fusion=dict(method='wbf', 'nmw', 'nms' or 'soft_nms', ...)``: the settings of
              :class:`mmoid.openimages.predictions.ensemble.Fusion`, each view as one model; on the CPU.
        module: The detector, or its config.
        data_preprocessor: As for ``BaseTTAModel``.

    Raises:
        ValueError: Not exactly one of ``nms`` and ``fusion``, or a setting out of range.
        ImportError: ensemble-boxes is not installed.
    """

    def __init__(
        self, tta_cfg: Mapping[str, Any], module: dict | nn.Module, data_preprocessor: dict | nn.Module | None = None
    ) -> None:
        rules = [name for name in ('nms', 'fusion') if tta_cfg.get(name) is not None]
        if len(rules) != 1:
            raise ValueError(
                "tta_model.tta_cfg: expects either nms=dict(type='nms', iou_threshold=0.5) or "
                f'fusion=dict(method="wbf"), got {" and ".join(rules) or "neither"}'
            )
        most = tta_cfg.get('max_per_img')
        if not isinstance(most, int) or most < 1:
            raise ValueError(f'tta_model.tta_cfg.max_per_img: expects a positive int, got {most!r}')
        self.fusion = Fusion(**tta_cfg['fusion'], max_per_image=most) if rules == ['fusion'] else None
        super().__init__(tta_cfg=ConfigDict(tta_cfg), module=module, data_preprocessor=data_preprocessor)

    def _merge_single_sample(self, data_samples: Sequence[DetDataSample]) -> DetDataSample:
        for sample in data_samples:  # mmdet needs the keys in every view
            sample.set_metainfo({'flip': False, 'flip_direction': None, **sample.metainfo})
        if self.fusion is None:
            return super()._merge_single_sample(data_samples)
        height, width = data_samples[0].ori_shape
        size = np.array((width, height, width, height), dtype=np.float64)
        parts = []
        for sample in data_samples:
            view = sample.pred_instances
            bboxes = bbox_flip(view.bboxes, sample.ori_shape, sample.flip_direction) if sample.flip else view.bboxes
            box = np.clip(bboxes.detach().cpu().numpy() / size, 0, 1)
            score = view.scores.detach().cpu().numpy().astype(np.float64)
            used = self.fusion.usable(score, box)
            parts.append((box[used], score[used], view.labels.cpu().numpy()[used]))
        box, score, label = fuse(self.fusion, *zip(*parts))
        best = np.argsort(-score, kind='stable')[: self.fusion.max_per_image]
        like = data_samples[0].pred_instances
        data_samples[0].pred_instances = InstanceData(
            bboxes=torch.from_numpy(box[best] * size).to(like.bboxes),
            scores=torch.from_numpy(score[best]).to(like.scores),
            labels=torch.from_numpy(label[best]).to(like.labels),
        )
        return data_samples[0]
