"""Files and folders that are complete or absent, whatever kills the process that writes them."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
UNCREATABLE = (*UNWRITABLE, errno.ENOENT)  # the last is the answer of /proc


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path`` and renames it to ``path`` when the block succeeds.

    The temporary file exists already and has the same extension. Files that killed processes left of the same ``path``
    are removed. The data is on the disk before the file takes its name.

    Raises:
        OSError: The path is a directory or a device such as ``/dev/full``, or cannot be written.

    Examples:
        >>> with atomic_write('report.html') as temporary:
        ...     temporary.write_text(page)
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise FileExistsError(f'{path}: is a directory or a device; give the path of a file')
    if not existing_parent(path).is_dir():
        raise NotADirectoryError(f'{path}: {existing_parent(path)} is not a directory; write elsewhere')
    temporary = path.with_name(f'.writing-{os.getpid()}.{path.name}')
    try:
        with naming_path(path, UNCREATABLE):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(path.parent, f'.writing-*.{glob.escape(path.name)}')
            temporary.touch()
        with locked(temporary), naming_path(path):
            yield temporary
            flush(temporary)
            temporary.replace(path)
            flush(path.parent)  # the new name is on the disk only with its folder
    finally:
        with suppress(OSError):  # it has its name, or the disk is read-only, which is the error to show
            temporary.unlink()


def existing_parent(path: Path) -> Path:
    """The nearest folder, or file in its place, above a path that need not exist."""
    return next(parent for parent in path.absolute().parents if parent.exists())


@contextmanager
def naming_path(path: Path, numbers: Container[int] = UNWRITABLE) -> Iterator[None]:
    """Adds the path and a remedy to the error of a disk that is full, read-only or not ours, which may name no file.

    Other errors, with an ``errno`` that is not among ``numbers``, stay as they are.
    """
    try:
        yield
    except OSError as error:
        is_named = error.filename is None and str(path) in str(error)
        if error.errno is None or error.errno not in numbers or is_named:
            raise
        raise OSError(error.errno, f'{path}: {os.strerror(error.errno)}; free space, or write elsewhere') from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock on a file or folder being written. The system releases it when the process ends, however it ends."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Removes the files and folders of a glob pattern that no process has locked."""
    for path in folder.glob(pattern):
        with suppress(OSError):  # still locked, no locks on this file system, or removed by another process
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            finally:
                os.close(descriptor)


def flush(path: Path) -> None:
    """Waits until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
