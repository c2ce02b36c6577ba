"""Broken environments: laid out in folders with real metadata, seen by a Python without site-packages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mmoid.utils import environment
from tests.tool_runs import ROOT, run

ONEDL = {'onedl-mmdetection': '3.5.1', 'onedl-mmcv': '2.3.6', 'onedl-mmengine': '0.10.12'}
GPU = 'class cuda: is_available = staticmethod(lambda: True)'
NO_CUDA = 'def get_compiling_cuda_version(): return "not available"'
OPS_FOR_CPU = {'torch': GPU, 'cv2': '', 'mmcv': '', 'mmdet': '', 'mmcv/ops': NO_CUDA}
OPENMMLAB = {'mmdet': '3.3.0', 'mmcv': '2.1.0', 'mmengine': '0.10.7'}


def install(folder: Path, distributions: dict[str, str], packages: dict[str, str]) -> None:
    """Lays out distributions by their metadata, and packages by the text of their ``__init__.py``."""
    for name, version in distributions.items():
        info = folder / f'{name.replace("-", "_")}-{version}.dist-info'
        info.mkdir(parents=True)
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
    for name, text in packages.items():
        (folder / name).mkdir(parents=True)
        (folder / name / '__init__.py').write_text(text)


def check_env_in(folder: Path) -> subprocess.CompletedProcess:
    return run(sys.executable, '-S', ROOT / 'tools/misc/check_env.py', check=False, PYTHONPATH=str(folder))


def problems_of(versions: dict[str, str]) -> list[str]:
    return [problem.what for problem in environment.stack_problems(versions)]


@pytest.mark.parametrize('versions', [ONEDL, OPENMMLAB, {**OPENMMLAB, 'mmcv': '2.0.0', 'mmengine': '0.7.1'}])
def test_each_stack_alone_and_the_environment_of_these_tests_have_no_problems(versions):
    assert problems_of(versions) == environment.find_problems() == []


@pytest.mark.parametrize(
    ('versions', 'problem'),
    [
        ({}, 'no MMDetection stack is installed (mmdet, mmcv, mmengine)'),
        ({**ONEDL, 'mmdet': '3.3.0'}, 'not part of the onedl stack, but installed beside it: mmdet 3.3.0'),
        ({**OPENMMLAB, 'mmcv': '2.2.0'}, 'mmcv>=2.0.0,<2.2.0 is required, found 2.2.0'),
        ({**OPENMMLAB, 'mmdet': '2.28.2'}, 'mmdet>=3.3.0,<4 is required, found 2.28.2'),
        ({'onedl-mmdetection': '3.5.1', 'onedl-mmcv': '2.3.6'}, 'onedl-mmengine>=0.10.12,<1 is required, found none'),
    ],
)
def test_a_missing_mixed_or_unfit_stack_is_reported(versions, problem):
    assert problems_of(versions) == [problem]


def test_the_version_ranges_agree_with_pyproject():
    ranges = {name: (low, high) for parts in environment.STACKS.values() for name, low, high in parts}
    pattern = r"^    '((?:onedl-)?mm(?:det|cv|engine)[^']*)'"
    declared = re.findall(pattern, (ROOT / 'pyproject.toml').read_text(), re.MULTILINE)
    assert len(declared) == 6
    for requirement in map(Requirement, declared):
        lowest = min(part.version for part in requirement.specifier if part.operator in ('>=', '=='))
        assert problems_of({**ONEDL, requirement.name: lowest} if 'onedl' in requirement.name else OPENMMLAB) == []
        assert requirement.name in ranges


def test_check_env_needs_no_package(tmp_path):
    done = check_env_in(tmp_path)
    assert done.returncode == 1 and done.stderr == ''
    assert re.search(r'^torch +missing$', done.stdout, re.MULTILINE)
    assert 'problem: no MMDetection stack is installed' in done.stdout
    assert 'problem: torch>=2.4 is required, found None\n' in done.stdout


@pytest.mark.parametrize(
    ('packages', 'problem'),
    [
        ({'torch': 'raise OSError("libcudart.so.13")'}, 'torch cannot be imported: OSError: libcudart.so.13'),
        ({'torch': '', 'torchvision': 'raise RuntimeError("nms")'}, 'torchvision cannot be imported: RuntimeError'),
        ({'torch': '', 'cv2': 'raise ImportError("libGL")'}, 'cv2 cannot be imported: ImportError: libGL'),
        ({'torch': '', 'cv2': '', 'mmcv': ''}, 'mmcv.ops cannot be imported: ModuleNotFoundError: '),
        (
            OPS_FOR_CPU,
            'torch uses a GPU, but mmcv was compiled without CUDA\n    MMOID_DEVICE=cuda bash tools/setup_env.sh',
        ),
    ],
)
def test_a_framework_that_does_not_work_is_reported_with_the_reason(tmp_path, packages, problem):
    install(tmp_path, {**ONEDL, 'torch': '2.13.0'}, packages)
    assert f'problem: {problem}' in check_env_in(tmp_path).stdout
