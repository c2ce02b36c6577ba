"""ResumableCheckpointHook: intact checkpoints inside epochs, and the choice of the one to resume from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmdet.registry import HOOKS
from mmengine.dist import broadcast, broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import BaseLoop, Runner

from mmoid.engine.resume.checkpoints import (
    POINTER,
    allow_checkpoint_globals,
    newest_first,
    newest_usable,
    try_read_checkpoint,
)
from mmoid.engine.resume.train_loop import ResumableEpochTrainLoop
from mmoid.engine.settings import require_scores
from mmoid.utils.atomic import atomic_write, remove_abandoned

ITER_NAME = 'iter_{}.pth'
ITER_KEPT = 2  # one of them may be damaged

RUN_FACTS = {
    'world_size': 'the number of processes (world size)',
    'batch_size': 'train_dataloader.batch_size',
    'total_batch_size': 'the total batch size (world size x train_dataloader.batch_size)',
    'images': 'the number of images in train_dataloader.dataset',
    'iterations_per_epoch': 'the number of iterations of an epoch',
    'seed': 'randomness.seed',
}
"""Settings that must match for an exact resume."""


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook by epochs, plus ``iter_<n>.pth`` every ``iter_interval`` iterations inside them.

    All files, also ``best_*`` and ``last_checkpoint``, are written atomically; older ones are removed afterwards.
    An epoch's checkpoint is written again after its validation: a resumed run repeats a validation that did not finish.

    ``--resume`` without a path takes the newest checkpoint that can be read in full and logs those that it skipped.
    A checkpoint given by path must be intact and contain the optimizer's state, which ``best_*`` files do not.

    While gradients are accumulated, a checkpoint inside an epoch waits for the next optimizer step. That of an epoch
    cannot wait; if it falls between two steps, ``--resume`` skips it.

    Args:
        interval: Epochs between ``epoch_<n>.pth`` files.
        iter_interval: Iterations between ``iter_<n>.pth`` files, of which the last two are kept; None for none.
        max_keep_ckpts: Number of ``epoch_<n>.pth`` files to keep, at least 2; -1 for all.
        **kwargs: As for ``CheckpointHook``, except ``by_epoch``.

    Raises:
        ValueError: Invalid arguments; at the start of a run, a train loop that would repeat images after
            ``iter_<n>.pth``, no readable checkpoint, or one with other settings.
    """

    def __init__(
        self, interval: int = 1, iter_interval: int | None = None, max_keep_ckpts: int = 3, **kwargs: Any
    ) -> None:
        if not kwargs.pop('by_epoch', True):
            raise ValueError(
                'default_hooks.checkpoint.by_epoch is False; set iter_interval for checkpoints by iterations'
            )
        if iter_interval is not None and iter_interval < 1:
            raise ValueError(f'default_hooks.checkpoint.iter_interval must be at least 1 or None, got {iter_interval}')
        if max_keep_ckpts in (0, 1):
            raise ValueError(
                f'default_hooks.checkpoint.max_keep_ckpts must be at least 2 or -1 for all, got {max_keep_ckpts}'
            )
        super().__init__(interval=interval, by_epoch=True, max_keep_ckpts=max_keep_ckpts, **kwargs)
        self.iter_interval = iter_interval
        self._iter_due = False

    def before_run(self, runner: Runner) -> None:
        """Chooses the checkpoint before the runner would take the one in ``last_checkpoint``."""
        allow_checkpoint_globals()
        loop = runner._train_loop
        if not isinstance(loop, BaseLoop):
            return  # a test run
        if self.save_best and runner._val_loop is None:
            runner.logger.warning('default_hooks.checkpoint.save_best has no effect: the run has no validation')
        elif self.save_best:
            names = [name for name in self.key_indicators if name != 'auto']
            require_scores(names, 'default_hooks.checkpoint.save_best', runner.val_loop.evaluator)
        if self.iter_interval is not None and not isinstance(loop, ResumableEpochTrainLoop):
            raise ValueError(
                f'default_hooks.checkpoint.iter_interval is {self.iter_interval}, but train_cfg.type is '
                f'{type(loop).__name__}, which repeats the epoch when it resumes inside one; set '
                "train_cfg.type='ResumableEpochTrainLoop', or iter_interval=None"
            )
        if runner._resume and '://' not in str(runner._load_from or self.out_dir):
            runner._load_from = self._choose(runner)
            # Otherwise mmengine would take the file named in last_checkpoint, even if it does not exist.
            runner._resume = runner._load_from is not None

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self.last_ckpt = runner.message_hub.get_info('last_ckpt')  # of a resumed run; mmengine does not restore it
        if self._writes_files():
            remove_abandoned(Path(self.out_dir), '.writing-*')
            runner.save_checkpoint = _atomic(runner.save_checkpoint)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        if self.iter_interval is None:
            return
        self._iter_due |= self.every_n_train_iters(runner, self.iter_interval)
        if not self._iter_due or gradients_pending(runner):
            return
        self._iter_due = False
        epoch_due = self.every_n_epochs(runner, self.interval, self.save_begin) or (
            self.save_last and self.is_last_train_epoch(runner)
        )
        if self.end_of_epoch(runner.train_dataloader, batch_idx) and epoch_due:
            return
        self.write_iteration(runner)

    def write_iteration(self, runner: Runner) -> None:
        """Writes ``iter_<n>.pth`` at the end of an iteration, if it is not written yet."""
        name = ITER_NAME.format(runner.iter + 1)
        if self.last_ckpt is not None and Path(self.last_ckpt).name == name:
            return
        self._write(runner, name, dict(epoch=runner.epoch, iter=runner.iter + 1))
        if self._writes_files():
            for path in newest_first(Path(runner.work_dir), Path(self.out_dir), [ITER_NAME])[ITER_KEPT:]:
                path.unlink(missing_ok=True)

    def before_val_epoch(self, runner: Runner) -> None:
        """Gives all ranks the batch statistics of rank 0, the only ones that a resumed run has."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        saved = model.state_dict().keys()
        for name, buffer in model.named_buffers():
            if name in saved and buffer.is_floating_point():
                broadcast(buffer)

    def after_val(self, runner: Runner) -> None:
        """Writes the epoch's checkpoint again, with the changes that the validation made to hooks and schedulers."""
        name = self.filename_tmpl.format(runner.epoch)
        if self.last_ckpt is not None and Path(self.last_ckpt).name == name:
            self._write(runner, name, dict(epoch=runner.epoch, iter=runner.iter))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not all(bool(weight.isfinite().all()) for weight in runner.model.parameters()):
            raise FloatingPointError(
                f'weights are NaN or infinite after {runner.iter} iterations, so no checkpoint is written; --resume '
                'resumes from the newest one. InvalidLossHook names the images of the batch'
            )
        checkpoint['meta']['run'] = run_facts(runner)
        checkpoint['meta']['pending_gradients'] = gradients_pending(runner)
        stopped = runner.train_loop.stop_training
        checkpoint['early_stopping'] = [
            dict(wait_count=hook.wait_count, best_score=float(hook.best_score), stopped=stopped)
            for hook in _early_stopping_hooks(runner)
        ]

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        missing = [name for name in self.save_best and self.key_indicators or () if name not in (*metrics, 'auto')]
        if missing:
            raise ValueError(
                f'default_hooks.checkpoint.save_best is {missing[0]!r}, but the validation gave '
                f'{", ".join(map(repr, metrics))}'
            )
        super()._save_best_checkpoint(runner, metrics)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        meta, own = checkpoint['meta'], run_facts(runner)
        if 'run' in meta:  # not if another hook wrote it
            inside_epoch = meta['iter'] != meta['epoch'] * meta['run']['iterations_per_epoch']
            require_same_run(meta['run'], own, inside_epoch)
        states = checkpoint.get('early_stopping', [])
        for hook, state in zip(_early_stopping_hooks(runner), states):
            hook.wait_count, hook.best_score = state['wait_count'], state['best_score']
            if state['stopped']:
                runner.logger.warning('EarlyStoppingHook ended this run; to continue it, remove the hook')
                runner.train_loop.stop_training = True

    def _save_checkpoint(self, runner: Runner) -> None:
        epoch = runner.epoch + 1
        outdated = []
        if self.max_keep_ckpts > 0 and epoch not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated.append(self.keep_ckpt_ids.popleft())
            self.keep_ckpt_ids.append(epoch)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self._write(runner, self.filename_tmpl.format(epoch), dict(epoch=epoch, iter=runner.iter))
        for old in outdated if is_main_process() else ():
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Does nothing: :meth:`after_val` writes a new best score into the epoch's checkpoint."""

    def _write(self, runner: Runner, name: str, meta: dict) -> None:
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            with atomic_write(Path(runner.work_dir) / POINTER) as temporary:
                temporary.write_text(self.last_ckpt)

    def _writes_files(self) -> bool:
        return is_main_process() and isinstance(self.file_backend, LocalBackend)

    def _choose(self, runner: Runner) -> str | None:
        """The given or the newest usable checkpoint, the same on all ranks; None if there is no checkpoint."""
        work_dir, given = Path(runner.work_dir), runner._load_from
        found: list[Any] = [None, []]
        if is_main_process() and given is not None:
            checkpoint, reason = try_read_checkpoint(Path(given).expanduser())
            found = [None, [f'{given}: {reason}']] if checkpoint is None else [given, []]
        elif is_main_process():
            folder = work_dir if self.out_dir is None else Path(self.out_dir) / work_dir.name
            found = [*newest_usable(newest_first(work_dir, folder, [self.filename_tmpl, ITER_NAME]))]
        broadcast_object_list(found)
        path, skipped = found
        if path is None and skipped:
            raise ValueError(
                f'cannot resume exactly from {"; ".join(skipped)}. Give the path of another one (--resume PATH), '
                'or start a new run: in another folder, or from the weights with load_from=..., resume=False'
            )
        if path is None:
            runner.logger.warning(f'no checkpoint to resume from in {work_dir}: starting a new run')
            return None
        for reason in skipped:
            runner.logger.warning(f'resuming from {path}; skipped {reason}')
        return str(path)


def run_facts(runner: Runner) -> dict[str, Any]:
    """The values of :data:`RUN_FACTS`, which are written into checkpoints."""
    loader = runner.train_dataloader
    batch_size = getattr(loader.batch_sampler, 'batch_size', loader.batch_size)
    return dict(
        world_size=runner.world_size,
        batch_size=batch_size,
        total_batch_size=runner.world_size * batch_size,
        images=len(loader.dataset),
        iterations_per_epoch=len(loader),
        seed=runner.seed,
    )


def require_same_run(saved: dict[str, Any], own: dict[str, Any], inside_epoch: bool) -> None:
    """Compares the facts in a checkpoint with those of the run that resumes from it.

    Between two epochs it is enough that the total batch size is the same. Inside an epoch another number of processes
    would repeat some images and leave out others.

    Raises:
        ValueError: A fact differs that must not.
    """
    sizes = ('world_size', 'batch_size') if inside_epoch else ('total_batch_size',)
    for fact in (*sizes, 'images', 'iterations_per_epoch', 'seed'):
        if saved[fact] == own[fact]:
            continue
        place = 'inside an epoch' if inside_epoch else 'at the end of an epoch'
        other_way = ''
        if inside_epoch and fact in sizes and saved['total_batch_size'] == own['total_batch_size']:
            other_way = ' resume from a checkpoint at the end of an epoch (epoch_*.pth),'
        raise ValueError(
            f'cannot resume: {RUN_FACTS[fact]} is {own[fact]}, but was {saved[fact]} when the checkpoint was written '
            f'{place}. Set it to {saved[fact]} again,{other_way} or start a new run from its weights: load_from=..., '
            'resume=False'
        )


def gradients_pending(runner: Runner) -> bool:
    """Whether there are accumulated gradients that no optimizer step has used; each rank has its own part of them."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.optim_wrappers.values() if isinstance(wrapper, OptimWrapperDict) else (wrapper,)
    return any(not each.should_update() for each in wrappers)


def _atomic(save_checkpoint: Callable[..., None]) -> Callable[..., None]:
    """``Runner.save_checkpoint`` through :func:`atomic_write`.

    Raises:
        OSError: The disk is full or cannot be written.
    """

    def save(out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        try:
            with atomic_write(Path(out_dir) / filename) as temporary:
                save_checkpoint(out_dir, temporary.name, *args, **kwargs)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError if the disk is full
            if isinstance(error, RuntimeError) and not re.search('StreamWriter|inline_container', str(error)):
                raise
            raise OSError(
                f'{Path(out_dir) / filename}: cannot write the checkpoint, '
                f'{getattr(error, "strerror", "is the disk full?")}. Older checkpoints are as they were: make space, '
                'or make the folder writable, then use --resume'
            ) from error

    return save


def _early_stopping_hooks(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]
