"""HybridSchedule: training in stages (hybrid training, Sec. 4.3 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.registry import DATA_SAMPLERS, HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmoid.engine.schedule.best_weights import BestWeights
from mmoid.engine.schedule.loss_weights import StageLossWeights
from mmoid.engine.schedule.stages import parse_stages, plan, require_same_plan, schedule, stage_index


@HOOKS.register_module()
class HybridSchedule(Hook):
    """Changes the sampler, the learning rate, loss weights and, if wanted, the weights when a stage begins.

    The loader, its workers and the data set stay as they are. The stage follows from the epoch alone, so a resumed run
    is in the right one. It is logged, is the scalar ``stage`` of the log and of TensorBoard (1 for the first), and
    stands in checkpoints as ``meta['stage']``.

    ::

        custom_hooks = [dict(type='HybridSchedule', stages=[
            dict(name='natural', epochs=14, param_scheduler=[dict(type='MultiStepLR', milestones=[8, 12])]),
            dict(name='soft balance', epochs=7, sampler=dict(type='SoftBalanceClassAwareSampler', balance=0.7),
                 param_scheduler=[dict(type='MultiStepLR', milestones=[4, 6])],
                 loss_weights={'roi_head.bbox_head.loss_cls': 2.0}, load_best=True),
        ])]

    A stage is a dict of

    - ``epochs``, and a ``name``;
    - ``sampler``: a config; by default the sampler of ``train_dataloader``;
    - ``param_scheduler``: a config or a list, with times counted from the start of the stage. A stage without one
      trains at the initial rate. If no stage has any, the run's own ``param_scheduler`` is left alone;
    - ``loss_weights``: the ``loss_weight`` of modules, by their path in the model; a stage that does not name a module
      has its initial one;
    - ``load_best``: True for a stage that begins with the weights of the best checkpoint so far, by the metric of
      ``CheckpointHook.save_best``, or the name of the metric where that has several
      (:meth:`mmoid.engine.schedule.best_weights.BestWeights.load` says what is set back with them).

    Args:
        stages: Such dicts, in order.

    Raises:
        ValueError: At the start of the run: stages that do not add up to ``train_cfg.max_epochs``, samplers of
            unequal length, schedulers both here and in ``param_scheduler``, a loop that does not count epochs, loss
            weights of modules that have none, ``load_best`` where no best checkpoint is kept, a checkpoint to resume
            from that was written under stages of other epochs or schedulers. At the beginning of a
            stage with ``load_best``: there is no best checkpoint yet, or it cannot be read.
    """

    # Before DistSamplerSeedHook (NORMAL), which sets the epoch of whatever sampler the loader was built with.
    priority = 'ABOVE_NORMAL'

    def __init__(self, stages: Sequence[dict]) -> None:
        self.stages = parse_stages(stages)
        self.samplers: list[Any] = []

    def before_run(self, runner: Runner) -> None:
        """Builds everything that the stages need, before a checkpoint is resumed into it."""
        if not isinstance(runner._train_loop, EpochBasedTrainLoop):
            if isinstance(runner._train_loop, (dict, type(None))):
                return  # a test run: its train loop is not built
            raise ValueError(
                'HybridSchedule needs an epoch-based train loop, train_cfg builds a '
                f'{type(runner._train_loop).__name__}'
            )
        self._check_epochs(runner.max_epochs)
        self._build_samplers(runner)
        self._build_schedulers(runner)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.loss_weights = StageLossWeights(model, self.stages)
        self.best_weights = BestWeights(runner, self.stages)

    def before_train_epoch(self, runner: Runner) -> None:
        index = stage_index(self.stages, runner.epoch)
        stage, sampler = self.stages[index], self.samplers[index]
        self.loss_weights.set(stage)
        # A run that is resumed later in the stage has the weights that came of these.
        if stage.load_best and runner.iter == stage.start * len(runner.train_dataloader):
            self.best_weights.load(runner, stage, number=index + 1)
        batch_sampler = runner.train_dataloader.batch_sampler
        if batch_sampler.sampler is not sampler:
            # The batch sampler is kept: persistent workers honour its new sampler, but not a new batch sampler.
            batch_sampler.sampler = sampler
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(runner.epoch)
        runner.message_hub.update_scalar('train/stage', index + 1)
        rate = next(iter(runner.optim_wrapper.get_lr().values()))[0]
        runner.logger.info(
            f'Stage {index + 1} of {len(self.stages)} "{stage.name}": epoch {runner.epoch - stage.start + 1} of '
            f'{stage.epochs}, {type(sampler).__name__}, learning rate {rate:g}'
            + ''.join(f', {path}.loss_weight {weight:g}' for path, weight in stage.loss_weights.items())
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        meta = checkpoint['meta']
        # The stage of the last iteration that is in the weights: the runner may already count the next epoch.
        index = stage_index(self.stages, max(0, meta['iter'] - 1) // len(runner.train_dataloader))
        meta['stage'] = dict(index=index, name=self.stages[index].name)
        meta['stages'] = plan(self.stages)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume and 'stages' in checkpoint['meta']:
            require_same_plan(checkpoint['meta']['stages'], self.stages)

    def after_train(self, runner: Runner) -> None:
        if runner.epoch < self.stages[-1].start:
            index = stage_index(self.stages, runner.epoch - 1)
            runner.logger.warning(
                f'The run ended in stage {index + 1} of {len(self.stages)}, "{self.stages[index].name}": '
                'EarlyStoppingHook ends the run, not the stage. For the stages left, begin a new run with load_from'
            )

    def _check_epochs(self, max_epochs: int) -> None:
        total = self.stages[-1].stop
        if total != max_epochs:
            parts = ' + '.join(str(stage.epochs) for stage in self.stages)
            raise ValueError(
                f'HybridSchedule.stages have {parts} = {total} epochs, train_cfg.max_epochs is {max_epochs}; '
                'they must be equal'
            )

    def _build_samplers(self, runner: Runner) -> None:
        loader = runner.train_dataloader
        own = loader.batch_sampler.sampler
        defaults = dict(dataset=loader.dataset, seed=runner.seed)
        self.samplers = [
            own if stage.sampler is None else DATA_SAMPLERS.build(dict(stage.sampler), default_args=defaults)
            for stage in self.stages
        ]
        for stage, sampler in zip(self.stages, self.samplers):
            if stage.sampler is not None and hasattr(sampler, 'begin_at'):
                sampler.begin_at(stage.start)
        for i, sampler in enumerate(self.samplers):
            if len(sampler) != len(own):
                raise ValueError(
                    f'HybridSchedule.stages[{i}].sampler gives {len(sampler)} samples an epoch on this rank, '
                    f'train_dataloader.sampler gives {len(own)}; they must be equal, for the number of iterations is '
                    'fixed at the start (see samples_per_epoch)'
                )

    def _build_schedulers(self, runner: Runner) -> None:
        if not any(stage.param_scheduler for stage in self.stages):
            return
        if runner.param_schedulers:
            raise ValueError(
                'param_scheduler and HybridSchedule.stages[…].param_scheduler are both set; set param_scheduler=None'
            )
        runner.param_schedulers = runner.build_param_scheduler(schedule(self.stages, len(runner.train_dataloader)))
