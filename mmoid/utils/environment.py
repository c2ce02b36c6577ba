"""Finds the problems of an installation, for check_env.py. Needs only the standard library.

Two stacks provide ``mmdet``, ``mmcv`` and ``mmengine``: the maintained forks (``onedl``) and the originals
(``openmmlab``). mmoid runs on either.
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import NamedTuple


class Problem(NamedTuple):
    """A problem and the shell command that solves it."""

    what: str
    remedy: str


# Distribution, lowest version, first version that is too new: for `openmmlab` the ranges that mmdet 3.3.0 asserts.
STACKS = {
    'onedl': (('onedl-mmdetection', '3.5.1', '4'), ('onedl-mmcv', '2.3.6', '3'), ('onedl-mmengine', '0.10.12', '1')),
    'openmmlab': (('mmdet', '3.3.0', '4'), ('mmcv', '2.0.0', '2.2.0'), ('mmengine', '0.7.1', '1')),
}
STRAYS = ('mmcv-lite', 'onedl-mmcv-lite', 'mmcv-full')  # mmcv without operators, and mmcv 1.x
TORCH = '2.4'
PIP = shlex.join([sys.executable, '-m', 'pip'])
REMAKE = 'bash tools/setup_env.sh --remake'
REMEDIES = {
    'torchvision': f'{PIP} uninstall -y torchvision',  # not needed, but mmengine's Runner imports it
    'cv2': f'{PIP} install --force-reinstall --no-deps opencv-python-headless',
}


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def installed_stack() -> dict[str, str]:
    """The installed distributions that provide mmdet, mmcv or mmengine, with their versions."""
    names = [*(name for parts in STACKS.values() for name, _, _ in parts), *STRAYS]
    return {name: found for name in names if (found := installed_version(name))}


def find_problems() -> list[Problem]:
    """All problems of this environment; empty if mmoid can run."""
    problems = stack_problems(installed_stack())
    torch = installed_version('torch')
    if _release(torch or '') < _release(TORCH):
        problems.append(Problem(f'torch>={TORCH} is required, found {torch}', REMAKE))
    return problems or import_problems()


def stack_problems(versions: dict[str, str]) -> list[Problem]:
    """Problems of the versions that :func:`installed_stack` returns."""
    if not versions:
        return [Problem('no MMDetection stack is installed (mmdet, mmcv, mmengine)', 'bash tools/setup_env.sh')]
    stack = 'openmmlab' if 'mmdet' in versions and 'onedl-mmdetection' not in versions else 'onedl'
    own = [name for name, _, _ in STACKS[stack]]
    foreign = ', '.join(f'{name} {found}' for name, found in versions.items() if name not in own)
    if foreign:
        # Both stacks install into the same folders, so the rest is damaged too.
        return [Problem(f'not part of the {stack} stack, but installed beside it: {foreign}', REMAKE)]
    problems = []
    for name, low, high in STACKS[stack]:
        found = versions.get(name, 'none')
        if not _release(low) <= _release(found) < _release(high):
            problems.append(Problem(f'{name}>={low},<{high} is required, found {found}', REMAKE))
    return problems


def import_problems() -> list[Problem]:
    """Imports the frameworks; returns the first that fails, or mmcv if it lacks the CUDA operators that torch needs."""
    for module in ('torch', 'torchvision', 'cv2', 'mmcv.ops', 'mmdet'):
        try:
            if module != 'torchvision' or find_spec(module):
                importlib.import_module(module)
        except Exception as error:  # torchvision raises RuntimeError, a missing library OSError, mmdet AssertionError
            reason = f'{type(error).__name__}: {error}'.splitlines()[0]
            return [Problem(f'{module} cannot be imported: {reason}', REMEDIES.get(module, REMAKE))]
    ops, torch = importlib.import_module('mmcv.ops'), importlib.import_module('torch')
    if torch.cuda.is_available() and ops.get_compiling_cuda_version() == 'not available':
        return [Problem('torch uses a GPU, but mmcv was compiled without CUDA', f'MMOID_DEVICE=cuda {REMAKE}')]
    return []


def _release(version: str) -> tuple[int, ...]:
    """``'2.13.0+cpu'`` -> ``(2, 13, 0)``. `packaging` may not be installed."""
    numbers = re.match(r'\d+(\.\d+)*', version)
    return tuple(map(int, numbers[0].split('.'))) if numbers else ()
