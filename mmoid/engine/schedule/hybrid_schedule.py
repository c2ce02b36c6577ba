"""HybridSchedule: training in stages (hybrid training, Sec. 4.3 of the paper), and the plan of its stages."""

from __future__ import annotations

import copy
import json
import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from mmdet.registry import DATA_SAMPLERS, HOOKS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.momentum_scheduler import MomentumSchedulerMixin
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

from mmoid.engine.resume.checkpoint_hook import require_unchanged
from mmoid.engine.settings import require_end, type_name

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

    All schedulers exist from the start, so mmengine saves and resumes them as usual. One that goes on after its stage
    is cut off there, with a warning.
    """
    restarts = ['StageRestartLR']
    kinds = [_kind(config) for stage in stages for config in stage.param_scheduler or ()]
    if any(isinstance(kind, type) and issubclass(kind, MomentumSchedulerMixin) for kind in kinds):
        restarts.append('StageRestartMomentum')
    configs: list[dict] = []
    for i, stage in enumerate(stages):
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
            last = moved['begin'] + max(config.get('milestones') or [0])
            if max(last, start + config.get('end', 0) - 1) >= stop:
                length = f'{stop - start} {"epochs" if config.get("by_epoch", True) else "iterations"} of the stage'
                text = f'{type_name(config["type"])} goes on after the {length} and is cut off there'
                print_log(f'HybridSchedule.stages[{i}]: {text}', 'current', logging.WARNING)
            if moved['begin'] < stop:
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


@HOOKS.register_module()
class HybridSchedule(Hook):
    """Changes the sampler and the learning-rate schedule when a stage begins.

    The loader, its workers and the data set stay the same. The stage follows from the epoch alone, so a resumed run is
    in the right one. It is logged, is the scalar ``stage`` in the log and in TensorBoard (from 1), and is saved in
    checkpoints as ``meta['stage']``.

    Example::

        custom_hooks = [dict(type='HybridSchedule', stages=[
            dict(name='natural', epochs=14, param_scheduler=[dict(type='MultiStepLR', milestones=[8, 12])]),
            dict(name='soft balance', epochs=7, sampler=dict(type='SoftBalanceClassAwareSampler', balance=0.7),
                 param_scheduler=[dict(type='MultiStepLR', milestones=[4, 6])]),
        ])]

    A stage is a dict with these keys:

    - ``epochs`` and ``name``;
    - ``sampler``: a config; by default the sampler of ``train_dataloader``;
    - ``param_scheduler``: a config or a list, with times from the start of the stage. A stage without one trains at the
      initial lr. If no stage has any, the run's own ``param_scheduler`` is used.

    Raises:
        ValueError: At the start of the run: stages that do not add up to ``train_cfg.max_epochs``, samplers of
            different lengths, schedulers both here and in ``param_scheduler``, a loop that does not count epochs, or a
            checkpoint that was written with stages of other epochs or schedulers.
    """

    # Before DistSamplerSeedHook (NORMAL), which sets the epoch of the loader's sampler.
    priority = 'ABOVE_NORMAL'

    def __init__(self, stages: Sequence[dict]) -> None:
        self.stages = parse_stages(stages)
        self.samplers: list[Any] = []

    def before_run(self, runner: Runner) -> None:
        """Builds samplers and schedulers before a checkpoint is loaded into them."""
        loop = runner._train_loop
        if not isinstance(loop, BaseLoop) or self.samplers:
            return  # a test run, or a test after the training
        if not isinstance(loop, EpochBasedTrainLoop):
            raise ValueError(f'HybridSchedule needs a train loop by epochs, train_cfg builds a {type(loop).__name__}')
        require_epochs(self.stages, runner.max_epochs)
        self.samplers = [self._build_sampler(runner, i, stage) for i, stage in enumerate(self.stages)]
        if any(stage.param_scheduler for stage in self.stages):
            if runner.param_schedulers:
                raise ValueError('param_scheduler is set beside those of HybridSchedule.stages; set it to None')
            runner.param_schedulers = runner.build_param_scheduler(schedule(self.stages, len(loop.dataloader)))

    def before_train_epoch(self, runner: Runner) -> None:
        index = stage_index(self.stages, runner.epoch)
        stage, sampler = self.stages[index], self.samplers[index]
        # Persistent workers honour a new sampler in the batch sampler, but not a new batch sampler.
        runner.train_dataloader.batch_sampler.sampler = sampler
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(runner.epoch)
        runner.message_hub.update_scalar('train/stage', index + 1)
        lr = next(iter(runner.optim_wrapper.get_lr().values()))[0]
        balance = f' with λ = {sampler.balance:g}' if hasattr(sampler, 'balance') else ''
        runner.logger.info(
            f'Stage {index + 1} of {len(self.stages)} "{stage.name}": epoch {runner.epoch - stage.start + 1} of '
            f'{stage.epochs}, {type(sampler).__name__}{balance}, learning rate {lr:g}'
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        meta = checkpoint['meta']
        # The stage of the last iteration: the runner may already count the next epoch.
        index = stage_index(self.stages, max(0, meta['iter'] - 1) // len(runner.train_dataloader))
        meta['stage'] = dict(index=index, name=self.stages[index].name)
        meta['stages'] = plan(self.stages)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume and 'stages' in checkpoint['meta']:
            stages = zip_longest(plan(self.stages), checkpoint['meta']['stages'])
            for i, (now, before) in enumerate(stages):
                require_unchanged(f'HybridSchedule.stages[{i}]', now, before)

    def after_train(self, runner: Runner) -> None:
        if runner.epoch < self.stages[-1].start:
            runner.logger.warning(
                f'The run ended before its last stage, "{self.stages[-1].name}": EarlyStoppingHook ends the run, not '
                'the stage. Start a new run with load_from for the other stages'
            )

    def _build_sampler(self, runner: Runner, i: int, stage: Stage) -> Any:
        loader = runner.train_dataloader
        own = loader.batch_sampler.sampler
        if stage.sampler is None:
            return own
        sampler = DATA_SAMPLERS.build(dict(stage.sampler), default_args=dict(dataset=loader.dataset, seed=runner.seed))
        require_end(sampler, f'HybridSchedule.stages[{i}].sampler')
        if hasattr(sampler, 'begin_at'):
            sampler.begin_at(stage.start)
        if len(sampler) != len(own):
            raise ValueError(
                f'HybridSchedule.stages[{i}].sampler gives {len(sampler)} samples an epoch on this rank, '
                f'train_dataloader.sampler gives {len(own)}; they must be equal, because the number of iterations '
                'is fixed at the start (see samples_per_epoch)'
            )
        return sampler
