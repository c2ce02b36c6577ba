"""Whose unfinished output it is: what a killed process left is removed by the next that writes the same.

Whoever writes under a temporary name holds a lock on it, which the system takes back when the process ends, however it
ends. On a file system without locks nothing is removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds the lock of a file or folder that is there, until the block ends or the process does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Removes the files and folders of a name pattern whose writers have ended.

    Args:
        folder: Where they would be.
        pattern: As for ``Path.glob``.
    """
    for path in folder.glob(pattern):
        with suppress(OSError):  # a writer lives, there are no locks, or another has removed it
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            finally:
                os.close(descriptor)
