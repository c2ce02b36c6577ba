"""The stages of a hybrid training, as data: when each begins, and its learning-rate schedule in the run's own time."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.registry import PARAM_SCHEDULERS

KEYS = ('name', 'epochs', 'sampler', 'param_scheduler')


@dataclass(frozen=True)
class Stage:
    """One stage of a training.

    Attributes:
        name: Shown in logs and checkpoints.
        epochs: Its length, at least 1.
        start: Epoch of the run at which it begins, from 0.
        sampler: Config of its sampler; None for the sampler of ``train_dataloader``.
        param_scheduler: Its schedulers, their time counted from the start of the stage; None for a constant rate.
    """

    name: str
    epochs: int
    start: int
    sampler: dict | None
    param_scheduler: list[dict] | None

    @property
    def stop(self) -> int:
        """First epoch that is no longer in the stage."""
        return self.start + self.epochs


def parse_stages(configs: Sequence[dict]) -> tuple[Stage, ...]:
    """Checks the ``stages`` of a :class:`HybridSchedule` and numbers their epochs.

    Raises:
        ValueError: An unknown or missing key, ``epochs`` below 1, no stage at all.
    """
    if not configs:
        raise ValueError('HybridSchedule.stages is empty; give at least one dict(name=…, epochs=…, sampler=…)')
    stages: list[Stage] = []
    for i, config in enumerate(configs):
        where = f'HybridSchedule.stages[{i}]'
        unknown = sorted(set(config) - set(KEYS))
        if unknown:
            raise ValueError(f'{where} has the unknown key {unknown[0]!r}; known are {", ".join(KEYS)}')
        epochs = config.get('epochs')
        if not isinstance(epochs, int) or epochs < 1:
            raise ValueError(f'{where}.epochs must be an integer of at least 1, got {epochs!r}')
        schedulers = config.get('param_scheduler')
        if isinstance(schedulers, dict):
            schedulers = [schedulers]
        start = stages[-1].stop if stages else 0
        stages.append(Stage(config.get('name', f'stage {i + 1}'), epochs, start, config.get('sampler'), schedulers))
    return tuple(stages)


def stage_index(stages: Sequence[Stage], epoch: int) -> int:
    """Which stage an epoch of the run belongs to; the last one for epochs past the end.

    By position, not by ``epoch == start``: a resumed run must find its stage wherever it begins.
    """
    stops = list(accumulate(stage.epochs for stage in stages))
    return min(bisect_right(stops, epoch), len(stages) - 1)


def schedule(stages: Sequence[Stage], epoch_length: int) -> list[dict]:
    """Scheduler configs of the whole run: each stage's own, moved to its time, after a restart at the initial rate.

    Because all stages' schedulers exist from the start, mmengine saves and resumes them like any others.

    Args:
        stages: The stages.
        epoch_length: Iterations of one epoch.
    """
    configs: list[dict] = []
    for stage in stages:
        if stage.start:
            # By iteration, so that it comes before a warm-up that is counted in iterations too.
            begin = stage.start * epoch_length
            configs.append(dict(type='StageRestartLR', begin=begin, end=begin + 1, by_epoch=False))
        for config in stage.param_scheduler or ():
            unit = 1 if config.get('by_epoch', True) else epoch_length
            start, stop = stage.start * unit, stage.stop * unit
            moved: dict[str, Any] = copy.deepcopy(dict(config))
            moved['begin'] = start + config.get('begin', 0)
            moved['end'] = min(stop, start + config['end']) if 'end' in config else stop
            configs.append(moved)
    return configs


@PARAM_SCHEDULERS.register_module()
class StageRestartLR(LRSchedulerMixin, _ParamScheduler):
    """Sets the learning rate back to its initial value, once, at ``begin``."""

    def _get_value(self) -> list[float]:
        return self.base_values
