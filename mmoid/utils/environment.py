"""Which MMDetection stack is installed, and its problems. Needs only the standard library; run by check_env.py.

Two sets of distributions provide ``mmdet``, ``mmcv`` and ``mmengine``: the maintained forks (``onedl``) and the
originals (``openmmlab``). mmoid runs on either.
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
    """A problem, with the versions found, and the shell command that solves it."""

    what: str
    remedy: str


# Distribution, lowest version, first version that is too new: for `openmmlab` the ranges that mmdet 3.3.0 asserts.
STACKS = {
    'onedl': (('onedl-mmdetection', '3.5.1', '4'), ('onedl-mmcv', '2.3.6', '3'), ('onedl-mmengine', '0.10.12', '1')),
    'openmmlab': (('mmdet', '3.3.0', '4'), ('mmcv', '2.0.0', '2.2.0'), ('mmengine', '0.7.1', '1')),
}
STRAYS = ('mmcv-lite', 'onedl-mmcv-lite', 'mmcv-full')  # mmcv without operators, and mmcv 1.x
TORCH = '2.4'


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
    if torch is None or _release(torch) < _release(TORCH):
        problems.append(Problem(f'torch>={TORCH} is required, found {torch}', _pip('install', f'torch>={TORCH}')))
    return problems or import_problems()


def stack_problems(versions: dict[str, str]) -> list[Problem]:
    """Problems that follow from distributions and versions alone, as :func:`installed_stack` returns them."""
    if not versions:
        return [Problem('no MMDetection stack is installed (mmdet, mmcv, mmengine)', 'bash tools/setup_env.sh')]
    stack = 'openmmlab' if 'mmdet' in versions and 'onedl-mmdetection' not in versions else 'onedl'
    parts = STACKS[stack]
    foreign = [name for name in versions if name not in [part[0] for part in parts]]
    if foreign:
        found = ', '.join(f'{name} {versions[name]}' for name in foreign)
        # Both stacks install into the same folders, so the rest is damaged too.
        remedy = _pip('uninstall', '-y', *versions) + ' && bash tools/setup_env.sh --remake'
        return [Problem(f'not part of the {stack} stack, but installed beside it: {found}', remedy)]
    problems = []
    for name, low, high in parts:
        found = versions.get(name, 'none')
        if not _release(low) <= _release(found) < _release(high):
            problems.append(Problem(f'{name}>={low},<{high} is required, found {found}', _install(name, low, high)))
    return problems


def import_problems() -> list[Problem]:
    """Imports the frameworks; returns the first that fails, or mmcv if it lacks the CUDA operators that torch needs."""
    mmcv = next(part for parts in STACKS.values() for part in parts if 'mmcv' in part[0] and installed_version(part[0]))
    remedies = {
        'torch': _pip('install', '--force-reinstall', 'torch'),
        'torchvision': _pip('uninstall', '-y', 'torchvision'),  # not needed, but mmengine's Runner imports it
        'cv2': _pip('install', '--force-reinstall', '--no-deps', 'opencv-python-headless'),
        'mmcv.ops': _install(*mmcv, '--force-reinstall', '--no-deps'),
        'mmdet': 'bash tools/setup_env.sh --remake',
    }
    for module, remedy in remedies.items():
        try:
            if module != 'torchvision' or find_spec(module):
                importlib.import_module(module)
        except Exception as error:  # torchvision raises RuntimeError, a missing library OSError, mmdet AssertionError
            reason = f'{type(error).__name__}: {error}'.splitlines()[0]
            return [Problem(f'{module} cannot be imported: {reason}', remedy)]
    ops, torch = importlib.import_module('mmcv.ops'), importlib.import_module('torch')
    if torch.cuda.is_available() and ops.get_compiling_cuda_version() == 'not available':
        return [Problem('torch uses a GPU, but mmcv was compiled without CUDA', remedies['mmcv.ops'])]
    return []


def _release(version: str) -> tuple[int, ...]:
    """``'2.13.0+cpu'`` -> ``(2, 13, 0)``. `packaging` may not be installed."""
    numbers = re.match(r'\d+(\.\d+)*', version)
    return tuple(map(int, numbers[0].split('.'))) if numbers else ()


def _install(name: str, low: str, high: str, *options: str) -> str:
    # With build isolation mmcv does not find torch and silently builds no operators.
    prefix, isolation = ('MMCV_WITH_OPS=1 ', ['--no-build-isolation']) if 'mmcv' in name else ('', [])
    return prefix + _pip('install', *isolation, *options, f'{name}>={low},<{high}')


def _pip(*arguments: str) -> str:
    return shlex.join([sys.executable, '-m', 'pip', *arguments])
