"""Writing figures, and how all figures write class names."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from mmoid.utils.atomic import atomic_write

LONGEST_NAME = 27
"""Characters of a class name in an axis label: the length of the longest official name."""


def save(figure: Figure, path: str | Path, dpi: int = 120) -> Path:
    """Writes a PNG file, atomically, and returns its path."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format='png', bbox_inches='tight')
    return Path(path)


def plain(text: str) -> str:
    """Text without mathematics: matplotlib would interpret dollar signs."""
    return text.replace('$', r'\$')


def short_name(name: str) -> str:
    """A class name for an axis label, cut at :data:`LONGEST_NAME` characters."""
    return plain(name if len(name) <= LONGEST_NAME else f'{name[: LONGEST_NAME - 1]}…')
