"""The Python code in the README works as printed."""

import re
from pathlib import Path

from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmoid.openimages.store.annotation_store import AnnotationStore

README = (Path(__file__).parents[1] / 'README.md').read_text()


def test_the_lines_for_your_own_config_build_a_detector_and_its_stages(tiny_data, tmp_path):
    store = AnnotationStore(tiny_data / 'train')
    model, stages = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
    base = "_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py']\n"
    text = (base + model + stages).replace('data/openimages', str(tiny_data)).replace('=500', f'={store.num_classes}')
    (tmp_path / 'mine.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        detector = MODELS.build(cfg.model)
        hook = HOOKS.build(cfg.custom_hooks[0])
    assert type(detector.roi_head.bbox_head).__name__ == 'LabelSetBBoxHead'
    assert detector.roi_head.bbox_head.loss_cls.rates.any()
    assert sum(stage.epochs for stage in hook.stages) == cfg.train_cfg.max_epochs
