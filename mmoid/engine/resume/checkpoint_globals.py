"""What torch may build while it reads a checkpoint of mmengine.

From torch 2.6 on ``torch.load`` refuses whatever is not a tensor or a plain container, unless it was allowed by name.
mmengine keeps its log history in checkpoints: numpy arrays and ``HistoryBuffer``. mmengine 0.10.7 therefore cannot
resume at all, and the onedl fork falls back to an unrestricted load. With these names allowed both read their own
checkpoints in the restricted way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

STATISTICS = ('mean', 'max', 'min', 'current')


def allow_checkpoint_globals() -> None:
    """Allows them; nothing to do before torch 2.6."""
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 6):
        return
    names = [HistoryBuffer, np.ndarray, np.dtype, *_dtype_classes(), (_statistics_method, 'builtins.getattr')]
    # A checkpoint names numpy's internals as the numpy that wrote it had them.
    reconstruct, scalar = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):
        names += [(reconstruct, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    torch.serialization.add_safe_globals(names)


def _statistics_method(owner: type, name: str) -> Callable[..., Any]:
    """Stands in for ``getattr``, by which a pickled HistoryBuffer names its methods, and can do no more than that."""
    if owner is not HistoryBuffer or name not in STATISTICS:
        raise ValueError(
            f'a checkpoint asks for {name!r} of {owner!r}; only the statistics of HistoryBuffer are allowed'
        )
    return getattr(HistoryBuffer, name)


def _dtype_classes() -> list[type]:
    classes = vars(np.dtypes).values()
    return [kind for kind in classes if isinstance(kind, type) and issubclass(kind, np.dtype)]
