"""Stages that begin with the weights of the best checkpoint so far."""

from __future__ import annotations

import os
import shutil
from bisect import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmoid.engine.resume.checkpoint_files import read_or_say_why_not, read_whole, written_whole
from mmoid.engine.schedule.stages import Stage


class BestWeights:
    """Loads, when a stage begins, the weights that scored best on the validation set so far.

    Args:
        runner: The runner, its loops and hooks built.
        stages: The stages.

    Raises:
        ValueError: A stage asks for it, and ``save_best`` of the checkpoint hook does not say which checkpoint that
            is, or no validation comes before the stage.
    """

    def __init__(self, runner: Runner, stages: Sequence[Stage]) -> None:
        self.hook: Any = next((hook for hook in runner.hooks if _keeps_best(hook)), None)
        for i, stage in enumerate(stages):
            if stage.load_best:
                where = f'HybridSchedule.stages[{i}].load_best is {stage.load_best!r}'
                _require_metric(self.hook, stage.load_best, where)
                _require_validation(runner, stage, where)

    def load(self, runner: Runner, stage: Stage, number: int) -> None:
        """Begins the stage as a new run with ``load_from`` would; to be called by all ranks.

        Parameters and buffers are those that were validated, with EMA the averaged ones. What was gathered along the
        way from other weights goes: momentum and other state of the optimizer, gradients not used yet, the average,
        which begins anew. The scale of AMP stays.

        A second link to the file is kept, as ``stage_<number>_from_<name>``: a run that is set back to the beginning
        of the stage finds it there, although a later best checkpoint has replaced it.

        Raises:
            ValueError: No validation gave a score better than nothing, or the file is gone or damaged.
        """
        # Decided by rank 0, which wrote the file, possibly a moment ago: so the others wait for it, and all fail alike.
        found: list[Any] = [None, None]
        if is_main_process():
            found = self._find(runner, stage, number)
        broadcast_object_list(found)
        path, reason = found
        if reason is not None:
            raise ValueError(
                f'HybridSchedule: stage {number} "{stage.name}" is to begin with the best checkpoint so far, {reason}; '
                'to go on from the last weights instead, resume with load_best=False in the stage'
            )
        with self.hook.file_backend.get_local_path(path) as local:
            weights = read_whole(Path(local), parts=['state_dict'])['state_dict']
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.load_state_dict(weights)
        _forget(runner)
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook.ema_model.module.load_state_dict(weights)
                hook.ema_model.steps.zero_()  # the next update copies, as the first one did
        runner.logger.info(
            f'Stage {number} "{stage.name}" begins with the weights of {path}, and with momentum and averages anew'
        )

    def _find(self, runner: Runner, stage: Stage, number: int) -> list[Any]:
        """Path and None, or None and the reason why there is none."""
        key = 'best_ckpt' if len(self.hook.key_indicators) == 1 else f'best_ckpt_{stage.load_best}'
        best = runner.message_hub.get_info(key)
        if best is None:
            return [None, 'but no validation gave a score that is better than none']
        if not isinstance(self.hook.file_backend, LocalBackend):
            if self.hook.file_backend.isfile(best):
                return [best, None]
            return [None, f'but {best} is not there any more']
        here = Path(self.hook.out_dir) / Path(best).name  # the folder may have been moved
        kept = here.with_name(f'stage_{number}_from_{here.name}')
        if here.is_file():
            _keep(here, kept)
        elif not kept.is_file():
            return [None, f'but {here} is not there any more']
        checkpoint, damage = read_or_say_why_not(kept, parts=['state_dict'])
        return [None, f'but {kept} {damage}'] if checkpoint is None else [str(kept), None]


def _keeps_best(hook: Any) -> bool:
    return isinstance(hook, CheckpointHook) and hook.save_best is not None


def _require_metric(hook: CheckpointHook | None, load_best: bool | str, where: str) -> None:
    if hook is None:
        raise ValueError(
            f"{where}, but no best checkpoint is kept; set default_hooks.checkpoint.save_best, to 'openimages/mAP' or "
            'another metric of val_evaluator'
        )
    metrics = hook.key_indicators
    if load_best is True and len(metrics) > 1:
        raise ValueError(f'{where}, but save_best has several metrics; name one: {", ".join(metrics)}')
    if load_best is not True and load_best not in metrics:
        raise ValueError(f'{where}, but save_best of the checkpoint hook has {", ".join(metrics)}')


def _require_validation(runner: Runner, stage: Stage, where: str) -> None:
    loop: EpochBasedTrainLoop = runner.train_loop
    if runner.val_loop is None:
        raise ValueError(f'{where}, but nothing is validated; set val_dataloader, val_evaluator and val_cfg')
    for epoch in range(max(1, loop.val_begin), stage.start + 1):
        interval = loop.dynamic_intervals[bisect(loop.dynamic_milestones, epoch + 1) - 1]
        if epoch % interval == 0:
            return
    raise ValueError(
        f'{where}, but none of the {stage.start} epochs before it ends with a validation; change train_cfg.val_begin '
        f'({loop.val_begin}) or train_cfg.val_interval ({loop.val_interval})'
    )


def _keep(best: Path, kept: Path) -> None:
    if kept.is_file() and kept.samefile(best):
        return
    prefix = kept.name.removesuffix(best.name)
    for other in kept.parent.glob(f'{prefix}*'):
        other.unlink()  # of an earlier run in this folder
    with written_whole(kept) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(best, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(best, temporary)


def _forget(runner: Runner) -> None:
    wrapper = runner.optim_wrapper
    for each in wrapper.optim_wrappers.values() if isinstance(wrapper, OptimWrapperDict) else (wrapper,):
        each.zero_grad()
        each.optimizer.state.clear()
