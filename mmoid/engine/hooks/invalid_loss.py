"""InvalidLossHook: stops the training at a loss that is NaN or infinite."""

from __future__ import annotations

import math
from typing import Any

import torch
from mmdet.engine.hooks import CheckInvalidLossHook
from mmdet.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class InvalidLossHook(CheckInvalidLossHook):
    """mmdet's ``CheckInvalidLossHook``, which names the losses and the images of the batch.

    It runs before the checkpoint hook, so the newest checkpoint is from before.

    Args:
        interval: Iterations between checks.

    Raises:
        FloatingPointError: A loss is NaN or infinite.
    """

    def __init__(self, interval: int = 1) -> None:
        super().__init__(interval)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        if not self.every_n_train_iters(runner, self.interval):
            return
        values = {name: torch.as_tensor(value).item() for name, value in (outputs or {}).items()}
        invalid = [f'{name} is {value}' for name, value in values.items() if not math.isfinite(value)]
        if not invalid:
            return
        samples = data_batch.get('data_samples', ()) if isinstance(data_batch, dict) else ()
        images = [str(getattr(sample, 'img_id', getattr(sample, 'img_path', '?'))) for sample in samples]
        raise FloatingPointError(
            f'{", ".join(invalid)} in iteration {runner.iter + 1} (epoch {runner.epoch + 1}, rank {runner.rank}); '
            f'images of the batch: {", ".join(images) or "unknown"}. Look at their boxes, lower the learning rate, or '
            'set optim_wrapper.clip_grad; --resume resumes from the newest checkpoint'
        )
