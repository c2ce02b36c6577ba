"""Broken environments are laid out in folders, with real metadata, and looked at by a Python that sees nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mmoid import stack

ROOT = Path(__file__).parents[1]
ONEDL = {'onedl-mmdetection': '3.5.1', 'onedl-mmcv': '2.3.6', 'onedl-mmengine': '0.10.12'}
OPENMMLAB = {'mmdet': '3.3.0', 'mmcv': '2.1.0', 'mmengine': '0.10.7'}


def install(folder: Path, distributions: dict[str, str], packages: dict[str, str] | None = None) -> None:
    """Lays out distributions by their metadata, and packages by the text of their ``__init__.py``."""
    for name, version in distributions.items():
        info = folder / f'{name.replace("-", "_")}-{version}.dist-info'
        info.mkdir(parents=True)
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
    for name, text in (packages or {}).items():
        (folder / name).mkdir(parents=True)
        (folder / name / '__init__.py').write_text(text)


def run_bare(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python that has the standard library, mmoid and ``folder``, and no site-packages."""
    environment = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{folder}'}
    return subprocess.run([sys.executable, '-S', *command], capture_output=True, text=True, env=environment)


def problems_in(folder: Path, function: str = 'find_problems') -> list[str]:
    code = f'from mmoid import stack\nfor problem in stack.{function}(): print(problem.what)'
    done = run_bare(folder, '-c', code)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def whats(versions: dict[str, str]) -> list[str]:
    return [problem.what for problem in stack.distribution_problems(versions)]


def test_the_environment_of_these_tests_has_no_problems():
    assert stack.find_problems() == []
    stack.require_stack()


@pytest.mark.parametrize('versions', [ONEDL, OPENMMLAB, {**OPENMMLAB, 'mmcv': '2.0.0', 'mmengine': '0.7.1'}])
def test_each_stack_alone_is_right(versions):
    assert whats(versions) == []


def test_nothing_installed_names_everything_at_once_and_imports_nothing(tmp_path):
    assert problems_in(tmp_path) == [
        'no MMDetection stack is installed (mmdet, mmcv, mmengine)',
        'PyTorch is not installed',
    ]
    done = run_bare(tmp_path, '-c', 'from mmoid.stack import require_stack; require_stack()')
    message = done.stderr[done.stderr.index('ImportError: mmoid cannot run in') :]
    assert 'no MMDetection stack' in message and 'PyTorch is not installed' in message
    assert message.count('setup_env.sh') + message.count('activate') == 1, 'one remedy for both, shown once'


def test_two_stacks_in_one_folder_are_told_with_both_names(tmp_path):
    install(tmp_path, {**ONEDL, **OPENMMLAB})
    (what, *_) = problems_in(tmp_path)
    assert what.startswith('provided twice') and 'mmdet by onedl-mmdetection 3.5.1 and mmdet 3.3.0' in what


def test_a_mixture_of_both_stacks_is_told():
    (what,) = whats({'onedl-mmdetection': '3.5.1', 'mmcv': '2.1.0', 'onedl-mmengine': '0.10.12'})
    assert what.startswith('parts of both stacks are mixed') and 'mmcv 2.1.0' in what


@pytest.mark.parametrize(
    ('changed', 'told'),
    [
        ({'mmcv': '2.2.0'}, 'mmcv 2.2.0 is installed; mmdet 3.3 takes >=2.0.0rc4,<2.2.0'),
        ({'mmengine': '0.7.0'}, 'mmengine 0.7.0 is installed; mmdet 3.3 takes >=0.7.1,<1.0.0'),
        ({'mmdet': '3.0.0'}, 'mmdet 3.0.0 is installed; mmoid takes >=3.3.0,<4'),
        ({'mmdet': '2.28.2'}, 'mmdet 2.28.2 is installed; mmoid takes >=3.3.0,<4'),
    ],
)
def test_a_version_that_the_others_refuse_is_told_with_the_range(changed, told):
    assert whats({**OPENMMLAB, **changed}) == [told]


def test_a_missing_part_and_a_mmcv_of_another_kind_are_told():
    without = {name: version for name, version in ONEDL.items() if name != 'onedl-mmengine'}
    assert whats(without) == ['onedl-mmengine is missing, the mmengine of the onedl stack']
    lite = {'mmdet': '3.3.0', 'mmengine': '0.10.7', 'mmcv-lite': '2.1.0'}
    assert whats(lite) == ['mmcv comes from mmcv-lite 2.1.0, which is not the mmcv 2 with compiled operators']


def test_the_ranges_are_those_of_pyproject_and_of_the_installed_mmdet():
    ranges = {need.distribution: need for needs in stack.STACKS.values() for need in needs.values()}
    declared = re.findall(
        r"^    '((?:onedl-)?mm(?:det|cv|engine)[^']*)'", (ROOT / 'pyproject.toml').read_text(), re.MULTILINE
    )
    assert len(declared) == 6
    for requirement in map(Requirement, declared):
        need = ranges[requirement.name]
        lowest = min(part.version for part in requirement.specifier if part.operator in ('>=', '=='))
        if requirement.name.startswith('onedl-'):
            assert lowest == need.at_least
        assert stack._release(need.at_least) <= stack._release(lowest) < stack._release(need.below)
    # mmdet's own extras say what it asserts on import (mmdet 3.3) or was made with (the fork).
    name = stack.STACKS[stack.stack_name(stack.installed_stack())]['mmdet'].distribution
    (mmdet,) = stack.Distribution.discover(name=name)
    own = [Requirement(text) for text in mmdet.requires or () if re.search('extra == .(mim|mminstall)', text)]
    assert own
    for requirement in own:
        need = ranges[requirement.name]
        assert requirement.specifier.contains(need.at_least, prereleases=True)
        if name == 'mmdet':
            assert not requirement.specifier.contains(need.below)


def test_mmcv_without_operators_is_told(tmp_path):
    install(tmp_path, ONEDL, {'mmdet': '', 'mmcv': '', 'mmengine': ''})
    (what,) = problems_in(tmp_path, 'operator_problems')
    assert what == f'onedl-mmcv 2.3.6 was installed without its compiled operators ({tmp_path / "mmcv"})'


def test_operators_that_do_not_load_are_told_with_the_reason(tmp_path):
    install(tmp_path, {**ONEDL, 'torch': '2.13.0'}, {'mmdet': '', 'mmcv': '', 'mmengine': '', 'torch': ''})
    (tmp_path / 'mmcv' / f'_ext{EXTENSION_SUFFIXES[0]}').write_bytes(b'\x7fELF, but not much of it')
    (tmp_path / 'mmcv' / 'ops.py').write_text('import mmcv._ext')
    (what,) = problems_in(tmp_path, 'operator_problems')
    assert what.startswith('onedl-mmcv 2.3.6: the compiled operators do not load with torch 2.13.0: ImportError: ')


def test_operators_without_cuda_beside_a_torch_that_uses_a_gpu_are_told(tmp_path):
    torch = 'class cuda: is_available = staticmethod(lambda: True)\n__version__ = "2.13.0+cu130"'
    install(tmp_path, ONEDL, {'mmdet': '', 'mmcv': '', 'mmengine': '', 'torch': torch})
    (tmp_path / 'mmcv' / f'_ext{EXTENSION_SUFFIXES[0]}').touch()
    (tmp_path / 'mmcv' / 'ops.py').write_text('def get_compiling_cuda_version(): return "not available"')
    (what,) = problems_in(tmp_path, 'operator_problems')
    assert what == 'onedl-mmcv 2.3.6: the operators were compiled without CUDA, but torch 2.13.0+cu130 uses a GPU'


def test_what_uninstalling_the_other_stack_leaves_behind_is_told(tmp_path):
    install(tmp_path, ONEDL, {'mmdet': '', 'mmengine': ''})
    (tmp_path / 'mmcv' / 'ops').mkdir(parents=True)
    (what,) = problems_in(tmp_path, 'operator_problems')
    assert what == 'onedl-mmcv is registered as installed, but its files are gone'


def test_an_old_torch_and_one_that_does_not_import_are_told(tmp_path):
    install(tmp_path / 'old', {'torch': '2.3.1'}, {'torch': ''})
    assert problems_in(tmp_path / 'old', 'torch_problems') == ['torch 2.3.1 is installed; mmoid takes >=2.4']
    install(tmp_path / 'broken', {'torch': '2.13.0'}, {'torch': 'raise OSError("libcudart.so.13: no such file")'})
    assert problems_in(tmp_path / 'broken', 'torch_problems') == [
        'torch 2.13.0 does not import: OSError: libcudart.so.13: no such file'
    ]


def test_a_torchvision_that_does_not_import_is_told(tmp_path):
    broken = 'raise RuntimeError("operator torchvision::nms does not exist")'
    install(tmp_path, {'torch': '2.13.0+cpu', 'torchvision': '0.28.0'}, {'torch': '', 'torchvision': broken})
    (what,) = problems_in(tmp_path, 'torch_problems')
    assert 'torchvision 0.28.0 does not import beside torch 2.13.0+cpu: RuntimeError: operator' in what
    install(tmp_path / 'without', {'torch': '2.13.0+cpu'}, {'torch': ''})
    assert problems_in(tmp_path / 'without', 'torch_problems') == []


def test_opencv_in_two_versions_or_without_its_libraries_is_told(tmp_path):
    install(tmp_path / 'two', {'opencv-python': '4.12.0.88', 'opencv-python-headless': '4.11.0.86'})
    (what,) = problems_in(tmp_path / 'two', 'opencv_problems')
    assert '4.12.0.88' in what and '4.11.0.86' in what
    screenless = 'raise ImportError("libGL.so.1: cannot open shared object file")'
    install(tmp_path / 'screenless', {'opencv-python': '4.12.0.88'}, {'cv2': screenless})
    (what,) = problems_in(tmp_path / 'screenless', 'opencv_problems')
    assert what == 'OpenCV does not import: ImportError: libGL.so.1: cannot open shared object file'


def test_the_remedy_is_the_set_up_script_only_where_that_mends_the_python_that_asks(tmp_path, monkeypatch):
    checkout = tmp_path / 'my checkout'
    (checkout / 'tools').mkdir(parents=True)
    (checkout / 'tools' / 'setup_env.sh').touch()
    monkeypatch.setattr(stack, '_CHECKOUT', checkout)
    script = f"bash '{checkout}/tools/setup_env.sh'"

    monkeypatch.setattr(sys, 'prefix', sys.base_prefix)
    assert stack.set_up_command('onedl') == f'{script} --stack onedl'
    (checkout / '.venv' / 'bin').mkdir(parents=True)
    (checkout / '.venv' / 'bin' / 'python').touch()
    assert stack.set_up_command('onedl') == f"source '{checkout}/.venv/bin/activate'"
    monkeypatch.setattr(sys, 'prefix', str(checkout / '.venv'))
    assert stack.set_up_command('openmmlab') == f'{script} --stack openmmlab --remake'
    # An environment of the user's own, which the script would not touch.
    monkeypatch.setattr(sys, 'prefix', str(tmp_path / 'own'))
    monkeypatch.setattr(sys, 'executable', '/own env/bin/python')
    command = stack.set_up_command('openmmlab', OPENMMLAB)
    assert command.startswith("'/own env/bin/python' -m pip uninstall -y mmdet mmcv mmengine && ")
    assert "MMCV_WITH_OPS=1 '/own env/bin/python' -m pip install --no-build-isolation" in command


def test_check_env_reports_and_fails_without_any_package(tmp_path):
    done = run_bare(tmp_path, str(ROOT / 'tools/misc/check_env.py'))
    assert done.returncode == 1 and done.stderr == ''
    assert re.search(r'^torch +missing$', done.stdout, re.MULTILINE)
    assert '2 problems, each with the command that mends it:' in done.stdout


def test_check_env_passes_here():
    done = subprocess.run([sys.executable, str(ROOT / 'tools/misc/check_env.py')], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r'^operators +load$', done.stdout, re.MULTILINE) and 'no problems' in done.stdout
