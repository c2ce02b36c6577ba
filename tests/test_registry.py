"""Both ways that a name resolves, in fresh processes, where nothing was imported before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmoid

ROOT = Path(__file__).parents[1]

CONFIG = """
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
{imports}
loss = dict(_delete_=True, type={name!r}, num_classes=80)
model = dict(roi_head=dict(bbox_head=dict(loss_cls=loss)))
"""
BUILD = """
import sys
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmdet.registry import MODELS
cfg = Config.fromfile(sys.argv[1])
init_default_scope(cfg.default_scope)
cfg.model.backbone.init_cfg = None
print(type(MODELS.build(cfg.model).roi_head.bbox_head.loss_cls).__name__)
"""


@pytest.mark.parametrize(
    ('name', 'imports'),
    [
        ('mmoid.ConcurrentSoftmaxLoss', ''),
        ('ConcurrentSoftmaxLoss', "custom_imports = dict(imports=['mmoid.registry'])"),
    ],
)
def test_the_loss_is_found_by_a_plain_mmdet_config(tmp_path, name, imports):
    config = tmp_path / 'foreign.py'
    config.write_text(CONFIG.format(imports=imports, name=name))
    run = [sys.executable, '-W', 'ignore', '-c', BUILD, str(config)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == 'ConcurrentSoftmaxLoss'


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
