"""Both ways that a name resolves, in fresh processes, where nothing was imported before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmoid

ROOT = Path(__file__).parents[1]

LOSS = 'dict(_delete_=True, type={name!r}, num_classes=80, concurrent_rates=None)'
CONFIG = """
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
{imports}
model = dict(roi_head=dict(bbox_head=dict(loss_cls={loss})))
"""
BUILD = """
import sys, torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmdet.registry import MODELS
cfg = Config.fromfile(sys.argv[1])
init_default_scope(cfg.default_scope)
cfg.model.backbone.init_cfg = None
model = MODELS.build(cfg.model)
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
sample = DetDataSample(metainfo=dict(img_shape=(64, 64), pad_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1, 1)))
sample.gt_instances = InstanceData(bboxes=torch.tensor([[8., 8., 40., 40.]]), labels=torch.tensor([7]))
sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
losses = model.loss(torch.rand(1, 3, 64, 64), [sample])
assert losses['loss_cls'].isfinite() and 'acc' in losses, losses
model.eval()
print(type(model.roi_head.bbox_head.loss_cls).__name__, len(model.predict(torch.rand(1, 3, 64, 64), [sample])))
"""


@pytest.mark.parametrize(
    ('name', 'imports'),
    [
        ('mmoid.ConcurrentSoftmaxLoss', ''),
        ('ConcurrentSoftmaxLoss', "custom_imports = dict(imports=['mmoid.registry'])"),
    ],
)
def test_the_loss_works_in_a_plain_mmdet_config(tmp_path, name, imports):
    config = tmp_path / 'foreign.py'
    config.write_text(CONFIG.format(imports=imports, loss=LOSS.format(name=name)))
    run = [sys.executable, '-W', 'ignore', '-c', BUILD, str(config)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == 'ConcurrentSoftmaxLoss 1'


EVERYTHING = """
from mmengine.registry import init_default_scope
from mmdet import registry
init_default_scope('mmdet')
found = [
    registry.HOOKS.build(dict(type='mmoid.HybridSchedule', stages=[dict(name='all', epochs=1)])),
    registry.DATASETS.get('mmoid.OpenImagesHierarchyDataset'),
    registry.DATA_SAMPLERS.get('mmoid.SoftBalanceClassAwareSampler'),
    registry.METRICS.get('mmoid.OpenImagesChallengeMetric'),
    registry.TASK_UTILS.get('mmoid.LabelSetSampler'),
    registry.MODELS.get('mmoid.LabelSetBBoxHead'),
    registry.PARAM_SCHEDULERS.get('mmoid.StageRestartLR'),
    registry.LOOPS.get('mmoid.ResumableEpochTrainLoop'),
    registry.HOOKS.get('mmoid.LogHistoryHook'),
    registry.HOOKS.get('mmoid.ResumableCheckpointHook'),
]
assert None not in found, found
"""


def test_every_kind_of_module_resolves_with_its_prefix_alone():
    subprocess.run([sys.executable, '-W', 'ignore', '-c', EVERYTHING], check=True, env=environment())


def test_every_public_name_is_what_its_package_exports():
    from mmoid import registry

    for module, names in mmoid._PUBLIC.items():
        package = getattr(registry, module.split('.')[1])
        assert set(names) <= set(package.__all__)
        assert all(getattr(mmoid, name) is getattr(package, name) for name in names)
    with pytest.raises(AttributeError, match='no attribute'):
        mmoid.NoSuchThing  # noqa: B018


def test_import_is_light():
    code = 'import sys, mmoid; assert not {"torch", "mmdet", "numpy"} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True, env=environment())


def environment():
    return {**os.environ, 'PYTHONPATH': str(ROOT)}
