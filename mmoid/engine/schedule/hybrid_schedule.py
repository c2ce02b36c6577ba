"""HybridSchedule: training in stages (hybrid training, Sec. 4.3 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from mmdet.registry import DATA_SAMPLERS, HOOKS
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

from mmoid.engine.resume.checkpoints import require_unchanged
from mmoid.engine.schedule.stages import parse_stages, plan, require_epochs, schedule, stage_index


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
        self._build_samplers(runner)
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

    def _build_samplers(self, runner: Runner) -> None:
        loader = runner.train_dataloader
        own = loader.batch_sampler.sampler
        defaults = dict(dataset=loader.dataset, seed=runner.seed)
        self.samplers.clear()
        for i, stage in enumerate(self.stages):
            if stage.sampler is None:
                self.samplers.append(own)
                continue
            sampler = DATA_SAMPLERS.build(dict(stage.sampler), default_args=defaults)
            if hasattr(sampler, 'begin_at'):
                sampler.begin_at(stage.start)
            self.samplers.append(sampler)
            if len(sampler) != len(own):
                raise ValueError(
                    f'HybridSchedule.stages[{i}].sampler gives {len(sampler)} samples an epoch on this rank, '
                    f'train_dataloader.sampler gives {len(own)}; they must be equal, because the number of iterations '
                    'is fixed at the start (see samples_per_epoch)'
                )
