"""Names resolve in fresh processes, where nothing was imported before; test_package.py tests those without a prefix."""

import sys

import pytest

import mmoid
from tests.tool_runs import run

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
    registry.MODELS.get('mmoid.ConcurrentSoftmaxLoss'),
    registry.PARAM_SCHEDULERS.get('mmoid.StageRestartLR'),
    registry.LOOPS.get('mmoid.ResumableEpochTrainLoop'),
    registry.HOOKS.get('mmoid.LogHistoryHook'),
    registry.HOOKS.get('mmoid.ResumableCheckpointHook'),
]
assert None not in found, found
"""


def test_every_kind_of_module_resolves_with_its_prefix_alone():
    run(sys.executable, '-W', 'ignore', '-c', EVERYTHING)


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
    run(sys.executable, '-c', code)
