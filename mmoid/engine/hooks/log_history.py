"""LogHistoryHook: runs of millions of iterations do not slow down by what they have logged."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.runner import Runner


@HOOKS.register_module()
class LogHistoryHook(Hook):
    """Bounds the histories of logged scalars.

    mmengine keeps the last million values of each, copies all of them whenever one is added, and writes them into
    every checkpoint. A detector logs a dozen scalars; after 10^6 iterations that is 40 ms an iteration, 200 MB in
    memory and in each checkpoint (``tools/benchmarks/bench_log_history.py``). What is logged are means of the latest
    values, for which a short history does.

    Windows of ``log_processor`` that are longer, ``window_size='epoch'`` and ``'global'`` too, get what they need.

    Args:
        max_length: Values to keep of each scalar.

    Raises:
        ValueError: ``max_length`` below 1.
    """

    def __init__(self, max_length: int = 10_000) -> None:
        if max_length < 1:
            raise ValueError(f'default_hooks.log_history.max_length must be at least 1, got {max_length}')
        self.max_length = max_length
        self._global: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        processor = runner.log_processor
        windows = [processor.window_size]
        for custom in processor.custom_cfg:
            window = custom.get('window_size', 1)
            windows.append(len(runner.train_dataloader) if window == 'epoch' else window)
            if window == 'global':
                self._global.add(custom['data_src'])
        self.max_length = max([self.max_length, *(window for window in windows if isinstance(window, int))])

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        # Each time: a scalar may be new, or have come back with a checkpoint.
        bound_histories(runner.message_hub, self.max_length, self._global)


def bound_histories(hub: MessageHub, max_length: int, unbound: Collection[str] = ()) -> None:
    """Makes the next value of each scalar cut its history.

    Args:
        hub: Where they are.
        max_length: Values to keep at most.
        unbound: Scalars to leave alone, named without the mode before the slash.
    """
    for name, history in hub.log_scalars.items():
        if name.split('/', 1)[-1] not in unbound:
            history.max_length = min(history.max_length, max_length)
