"""LogHistoryHook: keeps the history of logged scalars short, so that long runs do not slow down."""

from __future__ import annotations

from typing import Any

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner


@HOOKS.register_module()
class LogHistoryHook(Hook):
    """Bounds the histories of logged scalars.

    mmengine keeps the last million values of each scalar, copies all of them whenever one is added, and writes them
    into every checkpoint. Longer windows of ``log_processor``, also ``window_size='epoch'`` and ``'global'``, keep what
    they need.

    Args:
        max_length: Number of values to keep of each scalar.

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
        # Every time, because a scalar may be new or restored from a checkpoint.
        for name, history in runner.message_hub.log_scalars.items():
            if name.split('/', 1)[-1] not in self._global:
                history.max_length = min(history.max_length, self.max_length)
