"""Prints what this Python has of everything that mmoid needs, and for what is wrong the command that mends it.

Usage: python tools/misc/check_env.py

Exit status: 0 where mmoid can train, 1 with problems. Runs with the standard library alone.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmoid import stack  # noqa: E402  (the checkout has to be found first, installed or not)


def main() -> int:
    """Prints the report; returns the exit status."""
    if sys.argv[1:]:
        print(__doc__.strip())
        return 0 if sys.argv[1] in ('-h', '--help') else 2
    problems = stack.find_problems()
    for name, value in report(operators_load=not problems):
        print(f'{name:10}{value}')
    if not problems:
        print('no problems')
        return 0
    print(f'\n{len(problems)} problem{"s" if len(problems) > 1 else ""}, each with the command that mends it:')
    print(stack.describe(problems))
    return 1


def report(operators_load: bool) -> list[tuple[str, str]]:
    """The lines of the report, as names and values."""
    lines = [('python', f'{platform.python_version()}  {sys.executable}'), ('torch', torch_line())]
    for name in ('numpy', 'pyarrow'):
        lines.append((name, stack.installed_version(name) or 'missing'))
    versions = stack.installed_stack()
    for name in ('mmdet', 'mmcv', 'mmengine'):
        found = [f'{versions[dist]}  ({dist})' for dist in versions if stack.import_name(dist) == name]
        lines.append((name, ' and '.join(found) or 'missing'))
    lines.append(('operators', 'load' if operators_load else 'not usable as things are'))
    gpus = gpu_names()
    lines.append(('machine', f'{usable_cores()} cores, {memory()}, {", ".join(gpus) or "no GPU"}'))
    if gpus and operators_load and not importlib.import_module('torch').cuda.is_available():
        lines.append(('note', 'torch does not use the GPU; to change that: MMOID_DEVICE=cuda bash tools/setup_env.sh'))
    return lines


def torch_line() -> str:
    """Version of torch and what of CUDA it sees."""
    version = stack.installed_version('torch')
    if version is None:
        return 'missing'
    try:
        torch = importlib.import_module('torch')
        cuda = f'CUDA {torch.version.cuda}' if torch.cuda.is_available() else 'CUDA not available'
    except Exception as error:  # whatever is wrong with it stands among the problems
        cuda = f'does not import ({type(error).__name__})'
    return f'{version}, {cuda}'


def gpu_names() -> list[str]:
    """What the NVIDIA driver lists, whether or not torch can use it."""
    if not shutil.which('nvidia-smi'):
        return []
    listing = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, check=False)
    return [line.split(' (UUID')[0] for line in listing.stdout.splitlines() if line.startswith('GPU')]


def usable_cores() -> int:
    """The cores that this process may use, which in a container or a batch job are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def memory() -> str:
    """Physical memory."""
    try:
        total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (ValueError, OSError):
        return 'memory unknown'
    return f'{total / 2**30:.1f} GiB of memory'


if __name__ == '__main__':
    sys.exit(main())
