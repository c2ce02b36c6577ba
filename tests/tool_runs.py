"""Where the command-line tools are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def tool_path(name: str) -> Path:
    """Path of ``tools/**/<name>.py``."""
    (path,) = (ROOT / 'tools').glob(f'**/{name}.py')
    return path
