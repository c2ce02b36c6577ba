"""Names resolve in fresh processes, where nothing was imported before; test_package.py tests those without a prefix."""

import sys

import pytest

import mmoid
from tests.tool_runs import run

EVERYTHING = """
import mmoid
from mmengine.registry import Registry, init_default_scope
from mmdet import registry
init_default_scope('mmdet')
registries = [value for value in vars(registry).values() if isinstance(value, Registry)]
registry.HOOKS.build(dict(type='mmoid.HybridSchedule', stages=[dict(name='all', epochs=1)]))
for name in mmoid.__all__:
    assert getattr(mmoid, name) in [registry.module_dict.get(name) for registry in registries], name
"""


def test_every_public_name_resolves_with_its_prefix_alone():
    run(sys.executable, '-W', 'ignore', '-c', EVERYTHING)
    with pytest.raises(AttributeError, match='no attribute'):
        mmoid.NoSuchThing  # noqa: B018


@pytest.mark.parametrize(
    ('modules', 'absent'),
    [
        ('mmoid', {'torch', 'mmdet', 'numpy'}),
        ('mmoid.openimages.readers.coco, mmoid.openimages.metric.evaluator', {'torch', 'mmengine'}),
        ('mmoid.openimages.predictions.ensemble', {'torch', 'mmengine', 'numba'}),
    ],
)
def test_imports_are_light(modules, absent):
    run(sys.executable, '-c', f'import sys, {modules}; assert not {absent} & set(sys.modules)')
