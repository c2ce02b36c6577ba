"""The networks of all configs, at full width and with all classes."""

import pytest
import torch
from mmdet.registry import MODELS

from tests.configs.recipes import classes_of, one_of_each_network, read, without_weights

STRIDES = (4, 8, 16, 32, 64)
SIZE = (128, 192)


@pytest.mark.slow
def test_every_network_gives_all_levels_and_classes(mmdet_scope):
    for path in one_of_each_network():
        cfg = without_weights(read(path))
        # Shapes only: nothing is computed. mmdet's EfficientNet asks numbers of a tensor, so it cannot begin on meta.
        with torch.device('cpu' if cfg.model.backbone.type == 'EfficientNet' else 'meta'):
            model = MODELS.build(cfg.model).to('meta')
        features = model.extract_feat(torch.zeros(1, 3, *SIZE, device='meta'))
        width = cfg.model.neck.out_channels
        assert [tuple(level.shape) for level in features] == [
            (1, width, *(-(-side // stride) for side in SIZE)) for stride in STRIDES
        ]
        scores, deltas = model.rpn_head(features)
        assert len(scores) == len(deltas) == len(STRIDES)
        scores, boxes = model.roi_head.bbox_head(torch.zeros(2, width, 7, 7, device='meta'))
        assert scores.shape == (2, classes_of(cfg) + 1)
        assert boxes.shape == (2, 4 if cfg.model.roi_head.bbox_head.get('reg_class_agnostic') else 4 * classes_of(cfg))
