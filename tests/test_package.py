"""The package as users install it: an sdist, its wheel, what the wheel holds, and the names that resolve."""

import ast
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

import mmoid
from mmoid.__main__ import COMMANDS, TOOLS, usage
from tests.tool_runs import ROOT, run

USE = """
import mmoid.registry
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope

print(mmoid.__file__)
name = 'mmoid::openimages/faster-rcnn_r18-small_fpn_2xb4-hybrid-3e-2e_openimages.py'
assert get_config(name).model.type == 'FasterRCNN'
cfg = Config.fromstring(f'_base_ = {name!r}\\nmodel = dict(roi_head=dict(bbox_head=dict(fc_out_channels=32)))', '.py')
for name in ('concurrent_rates', 'hierarchy'):  # no data here
    cfg.model.roi_head.bbox_head.loss_cls.pop(name)
with DefaultScope.overwrite_default_scope('mmdet'):
    model = MODELS.build(cfg.model)
print(type(model.roi_head.bbox_head).__module__, model.roi_head.bbox_head.fc_out_channels)
"""


def test_every_recipe_is_in_the_index_and_every_tool_is_a_command():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    metafiles = [yaml.safe_load((ROOT / name).read_text()) for name in index['Import']]
    listed = {model['Config']: model['Name'] for metafile in metafiles for model in metafile['Models']}
    recipes = [path for path in (ROOT / 'configs').glob('*/*.py') if path.parent.name != '_base_']
    assert listed == {str(path.relative_to(ROOT)): path.stem for path in recipes}
    folders = ('analysis_tools', 'dataset_converters', 'misc')
    tools = [f'{folder}/{path.name}' for folder in folders for path in (ROOT / 'tools' / folder).glob('*.py')]
    assert sorted(COMMANDS.values()) == sorted([*tools, 'train.py', 'test.py', 'predict.py'])
    assert all(f'  {name} ' in usage() for name in COMMANDS)
    assert (TOOLS / 'train.py').samefile(ROOT / 'tools/train.py'), 'the checkout serves them too'


@pytest.mark.parametrize('script', COMMANDS.values())
def test_the_help_of_a_tool_has_an_example_after_its_first_line(script):
    lines = ast.get_docstring(ast.parse((TOOLS / script).read_text())).splitlines()
    assert not lines[1] and lines[2].startswith(f'    python tools/{script}')
    assert all(len(line) <= 120 for line in lines), 'a backslash at the end of a line needs a raw string'


@pytest.fixture(scope='module')
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp('package')
    tree = folder / 'tree'
    ignored = shutil.ignore_patterns('.*', 'work_dirs', '*.egg-info', '__pycache__', 'build', 'dist')
    shutil.copytree(ROOT, tree, symlinks=True, ignore=lambda path, names: ignored(path, names) - {'.mim'})
    build = 'import setuptools.build_meta as backend; print(backend.build_{}({!r}))'
    done = run(sys.executable, '-c', build.format('sdist', str(folder)), folder=tree)
    with tarfile.open(folder / done.stdout.splitlines()[-1]) as archive:
        archive.extractall(folder / 'sdist', filter='data')
    (source,) = (folder / 'sdist').iterdir()
    done = run(sys.executable, '-c', build.format('wheel', str(folder)), folder=source)
    wheel = folder / done.stdout.splitlines()[-1]
    assert wheel.name.startswith(f'mmoid-{mmoid.__version__}-')
    run(sys.executable, '-m', 'pip', 'install', '--no-deps', '--target', folder / 'site', wheel, folder=folder)
    return folder / 'site'


def test_the_wheel_holds_recipes_that_other_configs_inherit_from(installed):
    done = run(sys.executable, '-c', USE, folder=installed.parent, PYTHONPATH=str(installed))
    where, head = done.stdout.splitlines()[-2:]
    assert where == str(installed / 'mmoid/__init__.py')
    assert head == 'mmoid.models.roi_heads 32'
    assert 'Failed to' not in done.stdout + done.stderr


def test_the_command_of_the_wheel_runs_its_tools(installed):
    def command(*arguments, **options):
        program = (sys.executable, '-m', 'mmoid')
        return run(*program, *arguments, folder=installed.parent, PYTHONPATH=str(installed), **options)

    tools = installed / 'mmoid/.mim/tools'
    scripts = {str(path.relative_to(tools)) for path in tools.rglob('*.py')}
    assert scripts == {*COMMANDS.values(), 'torchrun.py'}  # torchrun.sh starts the last one
    assert command('--version').stdout.strip() == mmoid.__version__
    assert 'usage: prepare_openimages.py' in command('prepare', '--help').stdout
    recipe = 'mmoid::openimages/faster-rcnn_r18-small_fpn_2xb4-hybrid-3e-2e_openimages.py'
    done = command('plan-training', recipe, '--images', '1000')
    assert 'SoftBalanceClassAwareSampler' in done.stdout
    done = command('prepar', check=False)
    assert done.returncode == 1 and done.stderr == "error: unknown command 'prepar'; mmoid --help lists the commands\n"
    assert 'entry_points.txt' in [path.name for path in installed.glob('mmoid-*.dist-info/*')]


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
