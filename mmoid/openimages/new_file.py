"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .unfinished import held, remove_abandoned


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name beside ``path``; when the block ends well, the file takes its own name.

    The ending stays: readers tell a compressed file by it. Write into the file of that name, which is there already.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent, f'.writing-*.{glob.escape(path.name)}')
    temporary = path.with_name(f'.writing-{os.getpid()}.{path.name}')
    try:
        temporary.touch()
        with held(temporary):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
