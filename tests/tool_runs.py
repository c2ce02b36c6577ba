"""Runs the command-line tools."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def tool_path(name: str) -> Path:
    """Path of ``tools/**/<name>.py``."""
    (path,) = (ROOT / 'tools').glob(f'**/{name}.py')
    return path


def run(*command: object, check: bool = True, timeout: float = 400, **environment: str) -> subprocess.CompletedProcess:
    """Runs a command in the root of the project; with ``check``, it must succeed."""
    search_path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    env = {**os.environ, 'PATH': search_path, **environment}
    parts = [str(part) for part in command]
    done = subprocess.run(parts, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout)
    assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def tool(name: str, *arguments: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
    """Runs a tool by its name."""
    return run(sys.executable, tool_path(name), *arguments, check=check, **environment)
