"""Reading checkpoints in full and finding the newest intact one."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, find_latest_checkpoint

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
    last = find_latest_checkpoint(str(work_dir))
    if last is not None and Path(last).is_file():
        files = [Path(last), *(path for path in files if path.resolve() != Path(last).resolve())]
    return files


def why_unusable(path: Path, exact: bool = True) -> str:
    """Why a run cannot resume from a checkpoint, of which every byte is read with ``weights_only=True``; '' if it can.

    ``exact`` also refuses one that was written between two updates of accumulated gradients.
    """
    allow_checkpoint_globals()
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not compare the checksums
        if damaged is not None:
            return f'the checksum of {damaged} is wrong'
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged file makes torch, pickle and zipfile raise almost any exception
        return f'it cannot be read, {f"{type(error).__name__}: {error}".splitlines()[0]}'
    for part in PARTS:
        if part not in checkpoint:
            return f'it has no {part!r}'
    pending = exact and checkpoint['meta'].get('pending_gradients', False)
    return 'it was written between two updates of accumulated gradients' if pending else ''


def try_load(path: str | Path) -> dict[str, Any]:
    """A checkpoint at a path, or at a URL that mmengine knows.

    Raises:
        ValueError: It is damaged, asks for code to be run, or is no checkpoint.
        OSError: It cannot be opened.
    """
    allow_checkpoint_globals()
    try:
        checkpoint = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    except OSError:
        raise
    except Exception as error:  # as in why_unusable
        fault = f'{type(error).__name__}: {error}'.splitlines()[0]
        raise ValueError(f'{path}: cannot be read as a checkpoint ({fault})') from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{path}: holds a {type(checkpoint).__name__}; expected a checkpoint with a state_dict')
    return checkpoint


def require_unchanged(what: str, now: object, before: object, other_way: str = '') -> None:
    """Compares a setting of a run with that in the checkpoint from which it resumes.

    Raises:
        ValueError: They differ.
    """
    if now != before:
        raise ValueError(
            f'cannot resume: {what} is {now}, but was {before} when the checkpoint was written; undo the change, '
            f'{other_way}or start a new run from its weights: load_from=..., resume=False'
        )


def allow_checkpoint_globals() -> None:
    """Lets torch read the log history in mmengine's checkpoints without unpickling, and nothing with it.

    From torch 2.6 on, ``weights_only=True`` is the default: mmengine 0.10.7 then cannot resume at all. The onedl fork
    removes, after each load, the names that it added itself. Hence call this before each load.
    """
    # The forks' loader would try again with weights_only=False, and so does the one of URLs. 0 allows that for a file
    # that one trusts.
    os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
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
