"""docs/any_detector.md: every detector of its table trains on the generated data and is tested for mAP."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.models.test_dense_heads import CONFIGS
from tests.narrow import narrow

GUIDE = (Path(__file__).parents[1] / 'docs' / 'any_detector.md').read_text()
EXAMPLE = re.search(r'```python\n(.*?)```', GUIDE, re.DOTALL)[1]
LOSSES = dict(re.findall(r'`mmoid\.(LabelSet\w+Head)` \| `(mmoid\.\w+)`', GUIDE))
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(96, 96), keep_ratio=False),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]


@pytest.mark.parametrize('head', CONFIGS)
def test_every_detector_of_the_guide_trains_and_is_tested(head, tiny_data, tmp_path):
    num_classes = AnnotationStore(tiny_data / 'train').num_classes
    text = EXAMPLE.replace('data/openimages', str(tiny_data)).replace('num_classes=500', f'num_classes={num_classes}')
    text = text.replace('retinanet/retinanet_r50_fpn_1x_coco.py', CONFIGS[head])
    text = text.replace('LabelSetRetinaHead', f'LabelSet{head}')
    text = text.replace('mmoid.ConcurrentFocalLoss', LOSSES[f'LabelSet{head}'])
    if head == 'TOODHead':
        text += "model['bbox_head']['initial_loss_cls'] = dict(type='mmoid.ConcurrentFocalLoss')\n"
    (tmp_path / 'mine.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    narrow(cfg.model).data_preprocessor.batch_augments = None
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.update(pipeline=PIPELINE, indices=4)
        loader.update(num_workers=0, persistent_workers=False, batch_size=2, pin_memory=False)
    cfg.merge_from_dict(
        {'train_cfg': dict(_delete_=True, by_epoch=True, max_epochs=1), 'test_dataloader': cfg.val_dataloader}
    )
    cfg.update(custom_hooks=[], work_dir=str(tmp_path / 'work'), experiment_name=f'any-{head}', log_level='WARNING')
    cfg.default_hooks.checkpoint = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2 and 0 <= runner.message_hub.get_scalar('val/openimages/mAP').current() <= 1
