import io
import json
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from mmoid.openimages.store.annotation_store import AnnotationStore

ROOT = Path(__file__).resolve().parents[1]
SMALL_CONFIG = 'configs/openimages/faster-rcnn_r18-small_fpn_2xb4-hybrid-3e-2e_openimages.py'


def data_environment(root: str | Path) -> dict[str, str]:
    """Environment variables by which the configs find a data root."""
    num_classes = AnnotationStore(Path(root) / 'train').num_classes
    return dict(MMOID_DATA_ROOT=str(root), MMOID_NUM_CLASSES=str(num_classes))


def logged_scalars(work_dir: str | Path) -> list[dict[str, Any]]:
    """The lines of the one log of scalars in a work folder."""
    (file,) = Path(work_dir).glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in file.read_text().splitlines()]


def tool_path(name: str) -> Path:
    """Path of ``tools/**/<name>.py``."""
    (path,) = (ROOT / 'tools').glob(f'**/{name}.py')
    return path


def run(
    *command: object, check: bool = True, timeout: float = 400, folder: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess:
    """Runs a command, by default in the root of the project; with ``check``, it must succeed."""
    search_path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    env = {**os.environ, 'PATH': search_path, **environment}
    parts = [str(part) for part in command]
    done = subprocess.run(parts, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout)
    assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def tool(name: str, *arguments: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
    """Runs a tool by its name. In this process, which has torch and mmdet, unless mmengine's Runner works in it."""
    if name in ('train', 'test', 'predict') or name.startswith('bench_'):
        return run(sys.executable, tool_path(name), *arguments, check=check, **environment)
    command = [str(tool_path(name)), *map(str, arguments)]
    out, errors, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        patch.setattr(sys, 'argv', command)
        patch.chdir(ROOT)
        for variable, value in environment.items():
            patch.setenv(variable, value)
        try:
            runpy.run_path(command[0], run_name='__main__')
        except SystemExit as end:
            status = end.code
    if isinstance(status, str):
        errors.write(f'{status}\n')
        status = 1
    done = subprocess.CompletedProcess(command, status, out.getvalue(), errors.getvalue())
    assert not check or status == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done
