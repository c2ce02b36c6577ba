"""Prints the installed versions of what mmoid needs, and for each problem the command that solves it.

    python tools/misc/check_env.py

Exit status: 0 if mmoid can train, 1 with problems. Needs only the standard library.
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

from mmoid.utils.environment import find_problems, installed_stack, installed_version  # noqa: E402


def main() -> int:
    if sys.argv[1:]:
        print(__doc__.strip())
        return 0 if sys.argv[1] in ('-h', '--help') else 2
    versions = {'python': platform.python_version(), **installed_stack()}
    versions |= {name: installed_version(name) or 'missing' for name in ('torch', 'numpy', 'pyarrow')}
    for name, version in versions.items():
        print(f'{name:18}{version}')
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        print(f'Python 3.10 to 3.12 is required, found {platform.python_version()}\n    bash tools/setup_env.sh')
        return 1
    problems, gpus = find_problems(), gpu_names()
    # The cores of this process may be fewer than those of the machine.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    print(f'{"machine":18}{cores} cores, {", ".join(gpus) or "no GPU"}')
    for problem in problems:
        print(f'problem: {problem.what}\n    {problem.remedy}')
    if problems:
        return 1
    if gpus and not importlib.import_module('torch').cuda.is_available():
        print('note: torch does not use the GPU; to change this: MMOID_DEVICE=cuda bash tools/setup_env.sh')
    print('no problems')
    return 0


def gpu_names() -> list[str]:
    """GPUs that the NVIDIA driver lists, whether or not torch can use them."""
    if not shutil.which('nvidia-smi'):
        return []
    listing = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, check=False)
    return [line.split(' (UUID')[0] for line in listing.stdout.splitlines() if line.startswith('GPU')]


if __name__ == '__main__':
    sys.exit(main())
