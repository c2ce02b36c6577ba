"""Checkpoint files that are either whole or not there, and finding the newest that is whole."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mmoid.engine.resume.checkpoint_globals import allow_checkpoint_globals

POINTER = 'last_checkpoint'
WRITING = '.writing'
PARTS = ('meta', 'state_dict', 'message_hub', 'optimizer')


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it once the block has written it and the disk has it.

    Whatever kills the process, ``path`` is afterwards the old file or the new one.
    """
    temporary = path.with_name(path.name + WRITING)
    yield temporary
    _flush(temporary)
    os.replace(temporary, path)
    _flush(path.parent)  # the name is on the disk only with its folder


def write_pointer(work_dir: Path, checkpoint: str) -> None:
    """Notes which checkpoint is the last, where mmengine notes it too."""
    with written_whole(work_dir / POINTER) as temporary:
        temporary.write_text(checkpoint)


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes were writing."""
    for path in folder.glob('*' + WRITING):
        path.unlink(missing_ok=True)


def newest_first(work_dir: Path, folder: Path, names: Sequence[str]) -> list[Path]:
    """Checkpoints to resume from, in the order in which to try them.

    First the one that ``work_dir/last_checkpoint`` names, then those in ``folder`` by the time of writing: a run that
    was set back to an older checkpoint writes lower numbers later.

    Args:
        work_dir: Where the pointer is.
        folder: Where the checkpoints are.
        names: Their names, ``{}`` for the number.
    """
    pattern = '|'.join(re.escape(name).replace(r'\{\}', '[0-9]+') for name in names)
    files = [path for path in folder.glob('*') if re.fullmatch(pattern, path.name)]
    files.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    pointer = work_dir / POINTER
    if pointer.is_file():
        named = Path(pointer.read_text().strip())
        if named.is_file():
            files = [named, *(path for path in files if path.resolve() != named.resolve())]
    return files


def newest_usable(files: Iterable[Path]) -> tuple[Path | None, list[str]]:
    """The first checkpoint from which a run can go on exactly.

    Returns:
        It, None if there is none; and for each file passed over its path and the reason.
    """
    passed_over = []
    for path in files:
        checkpoint, damage = read_or_say_why_not(path)
        if checkpoint is None:
            passed_over.append(f'{path}, which {damage}')
        elif checkpoint['meta'].get('pending_gradients', False):
            passed_over.append(f'{path}, which was written between two updates of accumulated gradients')
        else:
            return path, passed_over
    return None, passed_over


def read_or_say_why_not(path: Path, parts: Sequence[str] = PARTS) -> tuple[dict[str, Any] | None, str]:
    """What :func:`read_whole` returns, or None and the rest of a sentence about the file."""
    try:
        return read_whole(path, parts), ''
    except Exception as error:  # a damaged file makes torch, pickle and zipfile raise nearly anything
        return None, f'cannot be read: {f"{type(error).__name__}: {error}".splitlines()[0]}'


def read_whole(path: Path, parts: Sequence[str] = PARTS) -> dict[str, Any]:
    """Reads a checkpoint, and with it every byte of the file.

    Args:
        path: The file.
        parts: What it must have; by default all that a run goes on from.

    Raises:
        Exception: It is torn, damaged, holds what ``torch.load(weights_only=True)`` refuses, or lacks a part.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()  # torch.load does not look at the checksums
    if damaged is not None:
        raise ValueError(f'{damaged} inside has another checksum than when it was written')
    allow_checkpoint_globals()
    checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    missing = [part for part in parts if part not in checkpoint]
    if missing:
        raise ValueError(f'it has no {missing[0]!r}')
    return checkpoint


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
