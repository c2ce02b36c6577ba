"""Reading checkpoints in full and finding the newest intact one."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

POINTER = 'last_checkpoint'
PARTS = ('meta', 'state_dict', 'message_hub', 'optimizer')
STATISTICS = ('mean', 'max', 'min', 'current')


def newest_first(work_dir: Path, folder: Path, names: Sequence[str]) -> list[Path]:
    """Lists checkpoints to resume from, best candidate first.

    First comes the one named in ``work_dir/last_checkpoint``, then those in ``folder`` by modification time, not by
    number: a run that was set back to an older checkpoint writes lower numbers later. ``names`` have ``{}`` for the
    number.
    """
    pattern = '|'.join(re.escape(name).replace(r'\{\}', '[0-9]+') for name in names)
    files = [path for path in folder.glob('*') if re.fullmatch(pattern, path.name)]
    files.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    pointer = work_dir / POINTER
    if pointer.is_file():
        last = Path(pointer.read_text().strip())
        if last.is_file():
            files = [last, *(path for path in files if path.resolve() != last.resolve())]
    return files


def newest_usable(files: Iterable[Path]) -> tuple[Path | None, list[str]]:
    """The first checkpoint that allows an exact resume, and for each skipped file its path and the reason."""
    skipped = []
    for path in files:
        checkpoint, reason = try_read_checkpoint(path)
        if checkpoint is None:
            skipped.append(f'{path}: {reason}')
        elif checkpoint['meta'].get('pending_gradients', False):
            skipped.append(f'{path}: it was written between two updates of accumulated gradients')
        else:
            return path, skipped
    return None, skipped


def try_read_checkpoint(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Reads every byte of a checkpoint with ``weights_only=True``.

    Returns:
        The checkpoint and ``''``, or None and the reason if it is damaged, refused, or lacks one of ``PARTS``.
    """
    allow_checkpoint_globals()
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not compare the checksums
        checkpoint = torch.load(path, map_location='cpu', weights_only=True) if damaged is None else {}
    except Exception as error:  # a damaged file makes torch, pickle and zipfile raise almost any exception
        return None, f'it cannot be read, {f"{type(error).__name__}: {error}".splitlines()[0]}'
    if damaged is not None:
        return None, f'the checksum of {damaged} is wrong'
    missing = [part for part in PARTS if part not in checkpoint]
    return (None, f'it has no {missing[0]!r}') if missing else (checkpoint, '')


def allow_checkpoint_globals() -> None:
    """Allows ``torch.load(weights_only=True)`` to read the log history in mmengine's checkpoints.

    From torch 2.6 on, ``weights_only=True`` is the default: mmengine 0.10.7 then cannot resume at all. The onedl fork
    removes, after each load, the names that it added itself. Hence call this before each load.
    """
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 6):
        return
    dtypes = [kind for kind in vars(np.dtypes).values() if isinstance(kind, type) and issubclass(kind, np.dtype)]
    names = [HistoryBuffer, np.ndarray, np.dtype, *dtypes, (_statistics_method, 'builtins.getattr')]
    # A checkpoint names numpy's internals as the numpy version that wrote it does.
    reconstruct, scalar = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):
        names += [(reconstruct, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    torch.serialization.add_safe_globals(names)


def _statistics_method(owner: type, name: str) -> Callable[..., Any]:
    """Replaces ``getattr``, by which a pickled HistoryBuffer names its methods; returns only those."""
    if owner is not HistoryBuffer or name not in STATISTICS:
        raise ValueError(f'a checkpoint asks for {name!r} of {owner!r}; only statistics of HistoryBuffer are allowed')
    return getattr(HistoryBuffer, name)
