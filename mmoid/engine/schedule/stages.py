"""The stages of a hybrid training, as data: when each begins, and its learning-rate schedule in the run's own time."""

from __future__ import annotations

import copy
import json
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from mmengine.config import Config
from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.momentum_scheduler import MomentumSchedulerMixin
from mmengine.registry import PARAM_SCHEDULERS

KEYS = ('name', 'epochs', 'sampler', 'param_scheduler', 'loss_weights', 'load_best')


@dataclass(frozen=True)
class Stage:
    """One stage of a training.

    Attributes:
        name: Shown in logs and checkpoints.
        epochs: Its length, at least 1.
        start: Epoch of the run at which it begins, from 0.
        sampler: Config of its sampler; None for the sampler of ``train_dataloader``.
        param_scheduler: Its schedulers, their time counted from the start of the stage; None for a constant rate.
        loss_weights: ``loss_weight`` of loss modules, by their dotted path in the model; others have their initial one.
        load_best: The metric whose best checkpoint so far the stage begins with; True for the only one, False for none.
    """

    name: str
    epochs: int
    start: int
    sampler: dict | None
    param_scheduler: list[dict] | None
    loss_weights: Mapping[str, float]
    load_best: bool | str

    @property
    def stop(self) -> int:
        """First epoch that is no longer in the stage."""
        return self.start + self.epochs


def parse_stages(configs: Sequence[dict]) -> tuple[Stage, ...]:
    """Checks the ``stages`` of a :class:`HybridSchedule` and numbers their epochs.

    Raises:
        ValueError: An unknown or missing key, ``epochs`` below 1, a weight that is no number of at least 0, a first
            stage that is to begin with the best checkpoint so far, no stage at all.
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
        stages.append(
            Stage(
                name=config.get('name', f'stage {i + 1}'),
                epochs=epochs,
                start=stages[-1].stop if stages else 0,
                sampler=config.get('sampler'),
                param_scheduler=schedulers,
                loss_weights=_loss_weights(config.get('loss_weights') or {}, where),
                load_best=_load_best(config.get('load_best', False), where, is_first=not stages),
            )
        )
    return tuple(stages)


def stages_of_config(cfg: Config) -> tuple[Stage, ...]:
    """The stages of the :class:`HybridSchedule` among the ``custom_hooks`` of a config; empty if it has none.

    The hook is found by ``type='HybridSchedule'``, ``'mmoid.HybridSchedule'`` or the class itself.
    """
    for hook in cfg.get('custom_hooks') or ():
        kind = hook['type']
        name = kind if isinstance(kind, str) else kind.__name__
        if name.rsplit('.', 1)[-1] == 'HybridSchedule':
            return parse_stages(hook['stages'])
    return ()


def stage_index(stages: Sequence[Stage], epoch: int) -> int:
    """Which stage an epoch of the run belongs to; the last one for epochs past the end.

    By position, not by ``epoch == start``: a resumed run must find its stage wherever it begins.
    """
    stops = list(accumulate(stage.epochs for stage in stages))
    return min(bisect_right(stops, epoch), len(stages) - 1)


def plan(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """What of the stages a checkpoint notes for :func:`require_same_plan`."""
    # As text in which the order of keys, which mmengine changes when it dumps a config, does not matter.
    texts = [json.dumps(stage.param_scheduler, sort_keys=True, default=repr) for stage in stages]
    return [dict(epochs=stage.epochs, param_scheduler=text) for stage, text in zip(stages, texts)]


def require_same_plan(saved: Sequence[dict[str, Any]], stages: Sequence[Stage]) -> None:
    """Compares the plan of a checkpoint with the stages of the run that is to go on from it.

    A checkpoint brings back the schedulers as they were configured, not only how far they are: other ones would
    silently have no effect.

    Raises:
        ValueError: The stages have other epochs or schedulers, or are more or fewer.
    """
    remedy = 'undo the change, or begin a new run from its weights with the stages left: load_from=…, resume=False'
    own = plan(stages)
    if len(saved) != len(own):
        raise ValueError(
            f'cannot resume: HybridSchedule has {len(own)} stages, and had {len(saved)} when the checkpoint was '
            f'written; {remedy}'
        )
    for i, (before, now) in enumerate(zip(saved, own)):
        for key in before:
            if before[key] != now[key]:
                raise ValueError(
                    f'cannot resume: HybridSchedule.stages[{i}].{key} is {now[key]}, and was {before[key]} when the '
                    f'checkpoint was written; {remedy}'
                )


def schedule(stages: Sequence[Stage], epoch_length: int) -> list[dict]:
    """Scheduler configs of the whole run: each stage's own, moved to its time, after a restart at the initial rate.

    Because all stages' schedulers exist from the start, mmengine saves and resumes them like any others.

    Args:
        stages: The stages.
        epoch_length: Iterations of one epoch.
    """
    restarts = ['StageRestartLR']
    if any(_schedules_momentum(config) for stage in stages for config in stage.param_scheduler or ()):
        restarts.append('StageRestartMomentum')
    configs: list[dict] = []
    for stage in stages:
        if stage.start:
            # By iteration, so that it comes before a warm-up that is counted in iterations too.
            begin = stage.start * epoch_length
            configs += [dict(type=name, begin=begin, end=begin + 1, by_epoch=False) for name in restarts]
        for config in stage.param_scheduler or ():
            unit = 1 if config.get('by_epoch', True) else epoch_length
            start, stop = stage.start * unit, stage.stop * unit
            moved: dict[str, Any] = copy.deepcopy(dict(config))
            moved['begin'] = start + config.get('begin', 0)
            moved['end'] = min(stop, start + config['end']) if 'end' in config else stop
            if getattr(_kind(config), 'need_val_args', False):
                # It acts on the validation before an epoch: that before the first is of the stage before.
                moved['begin'] = max(moved['begin'], start + 1)
                if moved['begin'] >= moved['end']:
                    continue
            configs.append(moved)
    return configs


@PARAM_SCHEDULERS.register_module()
class StageRestartLR(LRSchedulerMixin, _ParamScheduler):
    """Sets the learning rate back to its initial value, once, at ``begin``."""

    def _get_value(self) -> list[float]:
        return self.base_values


@PARAM_SCHEDULERS.register_module()
class StageRestartMomentum(MomentumSchedulerMixin, _ParamScheduler):
    """Sets the momentum, where a stage schedules it, back to its initial value, once, at ``begin``."""

    def _get_value(self) -> list[float]:
        return self.base_values


def _kind(config: dict) -> Any:
    return PARAM_SCHEDULERS.get(config['type']) if isinstance(config['type'], str) else config['type']


def _schedules_momentum(config: dict) -> bool:
    kind = _kind(config)
    return isinstance(kind, type) and issubclass(kind, MomentumSchedulerMixin)


def _loss_weights(weights: Any, where: str) -> dict[str, float]:
    if not isinstance(weights, Mapping):
        raise ValueError(f"{where}.loss_weights must be a dict such as {{'rpn_head.loss_cls': 2.0}}, got {weights!r}")
    flat = dict(_paths(weights))
    for path, weight in flat.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise ValueError(f'{where}.loss_weights[{path!r}] must be a number of at least 0, got {weight!r}')
    return flat


def _paths(weights: Mapping, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Dotted paths; ``--cfg-options`` makes dicts in dicts of them."""
    for key, value in weights.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def _load_best(load_best: Any, where: str, is_first: bool) -> bool | str:
    if not isinstance(load_best, (bool, str)) or load_best == '':
        raise ValueError(f'{where}.load_best must be True, False or the name of a metric, got {load_best!r}')
    if load_best and is_first:
        raise ValueError(
            f'{where}.load_best is {load_best!r}, but nothing comes before the first stage; set load_from for weights '
            'to begin with'
        )
    return load_best
