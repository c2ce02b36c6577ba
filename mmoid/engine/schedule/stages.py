"""The stages of a hybrid training: when each begins, and its learning-rate schedule in the time of the run."""

from __future__ import annotations

import copy
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.momentum_scheduler import MomentumSchedulerMixin
from mmengine.registry import PARAM_SCHEDULERS

from mmoid.engine.settings import type_name

KEYS = ('name', 'epochs', 'sampler', 'param_scheduler')


@dataclass(frozen=True)
class Stage:
    """One stage of a training, with the keys of :class:`HybridSchedule` and its first epoch in the run, from 0."""

    name: str
    epochs: int
    start: int
    sampler: dict | None
    param_scheduler: list[dict] | None

    @property
    def stop(self) -> int:
        """The first epoch after the stage."""
        return self.start + self.epochs


def parse_stages(configs: Sequence[dict]) -> tuple[Stage, ...]:
    """Checks the ``stages`` of a :class:`HybridSchedule` and numbers their epochs.

    Raises:
        ValueError: No stage, an unknown key, or ``epochs`` is missing or below 1.
    """
    if not configs:
        raise ValueError('HybridSchedule.stages is empty; give at least one dict(name=..., epochs=..., sampler=...)')
    stages: list[Stage] = []
    for i, config in enumerate(configs):
        where = f'HybridSchedule.stages[{i}]'
        if unknown := sorted(set(config) - set(KEYS)):
            raise ValueError(f'{where} has the unknown key {unknown[0]!r}; known are {", ".join(KEYS)}')
        epochs = config.get('epochs')
        if not isinstance(epochs, int) or epochs < 1:
            raise ValueError(f'{where}.epochs must be an integer of at least 1, got {epochs!r}')
        schedulers = config.get('param_scheduler')
        if isinstance(schedulers, dict):
            schedulers = [schedulers]
        name, start = config.get('name', f'stage {i + 1}'), stages[-1].stop if stages else 0
        stages.append(Stage(name, epochs, start, config.get('sampler'), schedulers))
    return tuple(stages)


def stages_of_config(cfg: Config) -> tuple[Stage, ...]:
    """The stages of the :class:`HybridSchedule` among the ``custom_hooks`` of a config; empty if it has none.

    The hook is found by ``type='HybridSchedule'``, ``'mmoid.HybridSchedule'`` or the class itself.
    """
    for hook in cfg.get('custom_hooks') or ():
        if type_name(hook['type']) == 'HybridSchedule':
            return parse_stages(hook['stages'])
    return ()


def require_epochs(stages: Sequence[Stage], max_epochs: int) -> None:
    """Raises a ValueError if the stages do not add up to ``train_cfg.max_epochs``."""
    total = stages[-1].stop
    if total != max_epochs:
        parts = ' + '.join(str(stage.epochs) for stage in stages)
        raise ValueError(f'HybridSchedule.stages have {parts} = {total} epochs, train_cfg.max_epochs is {max_epochs}')


def stage_index(stages: Sequence[Stage], epoch: int) -> int:
    """Index of the stage to which an epoch of the run belongs; the last one for epochs past the end."""
    return bisect_right([stage.start for stage in stages], epoch) - 1


def plan(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """The part of the stages that a resumed run must not change, as a checkpoint saves it."""
    # As sorted text, because mmengine changes the order of keys when it dumps a config.
    texts = [json.dumps(stage.param_scheduler, sort_keys=True, default=repr) for stage in stages]
    return [dict(epochs=stage.epochs, param_scheduler=text) for stage, text in zip(stages, texts)]


def schedule(stages: Sequence[Stage], epoch_length: int) -> list[dict]:
    """Scheduler configs of the whole run: those of each stage moved to its time, after a restart at the initial lr.

    All schedulers exist from the start, so mmengine saves and resumes them as usual.
    """
    restarts = ['StageRestartLR']
    kinds = [_kind(config) for stage in stages for config in stage.param_scheduler or ()]
    if any(isinstance(kind, type) and issubclass(kind, MomentumSchedulerMixin) for kind in kinds):
        restarts.append('StageRestartMomentum')
    configs: list[dict] = []
    for stage in stages:
        if stage.start:
            # By iteration, so that it comes before a warm-up by iterations.
            begin = stage.start * epoch_length
            configs += [dict(type=name, begin=begin, end=begin + 1, by_epoch=False) for name in restarts]
        for config in stage.param_scheduler or ():
            unit = 1 if config.get('by_epoch', True) else epoch_length
            start, stop = stage.start * unit, stage.stop * unit
            moved: dict[str, Any] = copy.deepcopy(dict(config))
            moved['begin'] = start + config.get('begin', 0)
            moved['end'] = min(stop, start + config['end']) if 'end' in config else stop
            if getattr(_kind(config), 'need_val_args', False):
                # It acts on the validation before an epoch; the first one belongs to the previous stage.
                moved['begin'] = max(moved['begin'], start + 1)
                if moved['begin'] >= moved['end']:
                    continue
            configs.append(moved)
    return configs


@PARAM_SCHEDULERS.register_module()
class StageRestartLR(LRSchedulerMixin, _ParamScheduler):
    """Resets the learning rate to its initial value, once, at ``begin``."""

    def _get_value(self) -> list[float]:
        return self.base_values


@PARAM_SCHEDULERS.register_module()
class StageRestartMomentum(MomentumSchedulerMixin, _ParamScheduler):
    """Resets a scheduled momentum to its initial value, once, at ``begin``."""

    def _get_value(self) -> list[float]:
        return self.base_values


def _kind(config: dict) -> Any:
    return PARAM_SCHEDULERS.get(config['type']) if isinstance(config['type'], str) else config['type']
