"""What all figures share."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.figure import Figure


def save(figure: Figure, path: str | Path, dpi: int = 120) -> Path:
    """Writes a PNG, atomically, and returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.writing-{os.getpid()}')
    try:
        figure.savefig(temporary, dpi=dpi, format='png', bbox_inches='tight')
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
