"""ResumableCheckpointHook: checkpoints inside epochs, each whole or not there, and the choice of one to resume from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdet.registry import HOOKS
from mmengine.dist import broadcast, broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner

from mmoid.engine.resume.checkpoint_files import (
    newest_first,
    newest_usable,
    read_or_say_why_not,
    remove_unfinished,
    write_pointer,
    written_whole,
)
from mmoid.engine.resume.run_facts import gradients_pending, require_same_run, run_facts
from mmoid.engine.resume.train_loop import ResumableEpochTrainLoop

ITER_NAME = 'iter_{}.pth'
ITER_KEPT = 2  # so that one may be damaged


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook by epochs, and ``iter_<n>.pth`` every ``iter_interval`` iterations inside them.

    A checkpoint, ``best_*`` and ``last_checkpoint`` too, is written under another name and renamed when the disk has
    it, so that no kill leaves half of one. Older ones are removed afterwards. The epoch's checkpoint is written a
    second time when its validation is done, because a resumed run makes up for one that is not.

    Resuming without a path (``--resume``) takes the newest checkpoint that can be read in full, and says which it
    passed over. One that is named must be whole and have the optimizer's state, which ``best_*`` have not. Checkpoints
    hold as ``meta['run']`` what must be the same in the run that goes on
    (:func:`mmoid.engine.resume.run_facts.require_same_run`), and the state of ``EarlyStoppingHook``, which mmengine forgets.

    All ranks validate what the checkpoint holds, which of batch statistics that ranks do not share are those of rank 0.

    While gradients are accumulated, a checkpoint inside an epoch waits for the next optimizer step. That of an epoch
    cannot; where it falls between two steps, ``--resume`` passes it over.

    Args:
        interval: Epochs between ``epoch_<n>.pth``.
        iter_interval: Iterations between ``iter_<n>.pth``, of which the last two are kept; None for none of them.
        max_keep_ckpts: ``epoch_<n>.pth`` to keep, at least 2; -1 for all.
        **kwargs: As for ``CheckpointHook``, except for ``by_epoch``.

    Raises:
        ValueError: Arguments that do not fit; at the start of a run, a train loop that would repeat images after
            ``iter_<n>.pth``, no checkpoint that can be read, or one of a run that cannot go on as this one.
    """

    def __init__(
        self, interval: int = 1, iter_interval: int | None = None, max_keep_ckpts: int = 3, **kwargs: Any
    ) -> None:
        if not kwargs.pop('by_epoch', True):
            raise ValueError(
                'default_hooks.checkpoint.by_epoch is False; for checkpoints by iterations set iter_interval'
            )
        if iter_interval is not None and iter_interval < 1:
            raise ValueError(f'default_hooks.checkpoint.iter_interval must be at least 1 or None, got {iter_interval}')
        if max_keep_ckpts in (0, 1):
            raise ValueError(
                f'default_hooks.checkpoint.max_keep_ckpts must be at least 2, so that one may be damaged, or -1 for '
                f'all; got {max_keep_ckpts}'
            )
        super().__init__(interval=interval, by_epoch=True, max_keep_ckpts=max_keep_ckpts, **kwargs)
        self.iter_interval = iter_interval
        self._iter_due = False

    def before_run(self, runner: Runner) -> None:
        """Chooses the checkpoint, before the runner would take the one that was begun last."""
        loop = runner._train_loop
        if not isinstance(loop, BaseLoop):
            return  # a test run: its train loop is not built
        if self.iter_interval is not None and not isinstance(loop, ResumableEpochTrainLoop):
            raise ValueError(
                f'default_hooks.checkpoint.iter_interval is {self.iter_interval}, but train_cfg.type is '
                f'{type(loop).__name__}, which begins the epoch again when it resumes inside one; set '
                "train_cfg.type='ResumableEpochTrainLoop', or iter_interval=None"
            )
        if runner._resume and runner._load_from is not None:
            _require_whole(runner._load_from)
        elif runner._resume and '://' not in str(self.out_dir):
            runner._load_from = self._choose(runner)
            # Else mmengine would look for what ``last_checkpoint`` names, there or not.
            runner._resume = runner._load_from is not None

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self.last_ckpt = runner.message_hub.get_info('last_ckpt')  # of a resumed run; mmengine forgets it
        if is_main_process() and self._is_local():
            remove_unfinished(Path(self.out_dir))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        if self.iter_interval is None:
            return
        self._iter_due |= self.every_n_train_iters(runner, self.iter_interval)
        if not self._iter_due or gradients_pending(runner):
            return
        self._iter_due = False
        if self.end_of_epoch(runner.train_dataloader, batch_idx) and self._epoch_due(runner):
            return
        self._write(runner, ITER_NAME.format(runner.iter + 1), dict(epoch=runner.epoch, iter=runner.iter + 1))
        if is_main_process() and self._is_local():
            for path in newest_first(Path(runner.work_dir), Path(self.out_dir), [ITER_NAME])[ITER_KEPT:]:
                path.unlink(missing_ok=True)

    def before_val_epoch(self, runner: Runner) -> None:
        """Gives all ranks the batch statistics of rank 0, which are those that the checkpoint holds.

        Else the score, and so which checkpoint is the best, would depend on those of the other ranks, which no
        checkpoint holds and no resumed run has.
        """
        # After the hooks of average models, which come earlier and put theirs in.
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        kept = model.state_dict().keys()
        for name, buffer in model.named_buffers():
            if name in kept and buffer.is_floating_point():
                broadcast(buffer)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        super().after_val_epoch(_WritingWhole(runner, self._is_local()), metrics)

    def after_val(self, runner: Runner) -> None:
        """Writes the epoch's checkpoint again, with all that the validation has changed in hooks and schedulers."""
        name = self.filename_tmpl.format(runner.epoch)
        if self.last_ckpt is not None and Path(self.last_ckpt).name == name:
            self._write(runner, name, dict(epoch=runner.epoch, iter=runner.iter))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['meta']['run'] = run_facts(runner)
        checkpoint['meta']['pending_gradients'] = gradients_pending(runner)
        stopped = runner.train_loop.stop_training
        checkpoint['early_stopping'] = [
            dict(wait_count=hook.wait_count, best_score=float(hook.best_score), stopped=stopped)
            for hook in _stopping(runner)
        ]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        meta, own = checkpoint['meta'], run_facts(runner)
        if 'run' in meta:  # else it was written by another hook
            inside_epoch = meta['iter'] != meta['epoch'] * meta['run']['iterations_per_epoch']
            require_same_run(meta['run'], own, inside_epoch)
        states = checkpoint.get('early_stopping', [])
        for hook, state in zip(_stopping(runner), states):
            hook.wait_count, hook.best_score = state['wait_count'], state['best_score']
            if state['stopped']:
                runner.logger.warning('EarlyStoppingHook had ended the run; to go on with it, take the hook out')
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
        """Nothing: mmengine puts a new best score into the epoch's checkpoint by this, :meth:`after_val` all."""

    def _write(self, runner: Runner, name: str, meta: dict) -> None:
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        _WritingWhole(runner, self._is_local()).save_checkpoint(
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
            write_pointer(Path(runner.work_dir), self.last_ckpt)

    def _epoch_due(self, runner: Runner) -> bool:
        return self.every_n_epochs(runner, self.interval, self.save_begin) or (
            self.save_last and self.is_last_train_epoch(runner)
        )

    def _is_local(self) -> bool:
        return isinstance(self.file_backend, LocalBackend)

    def _choose(self, runner: Runner) -> str | None:
        """The newest usable checkpoint, the same on all ranks; None if there is no checkpoint."""
        work_dir = Path(runner.work_dir)
        folder = work_dir if self.out_dir is None else Path(self.out_dir) / work_dir.name
        found: list[Any] = [None, []]
        if is_main_process():
            files = newest_first(work_dir, folder, [self.filename_tmpl, ITER_NAME])
            found = list(newest_usable(files))
        broadcast_object_list(found)
        return _chosen(runner, *found)


class _WritingWhole:
    """A runner whose checkpoints are written whole."""

    def __init__(self, runner: Runner, is_local: bool) -> None:
        self._runner, self._is_local = runner, is_local

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        if not is_main_process() or not self._is_local:
            self._runner.save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        with written_whole(Path(out_dir) / filename) as temporary:
            self._runner.save_checkpoint(out_dir, temporary.name, *args, **kwargs)


def _require_whole(path: str) -> None:
    """Refuses a checkpoint that was named and from which nothing could go on; all ranks fail alike.

    Raises:
        ValueError: A local file that is not there, is damaged or has no optimizer.
    """
    found = ['']
    if is_main_process() and '://' not in path:
        found = [read_or_say_why_not(Path(path).expanduser())[1]]
    broadcast_object_list(found)
    if found[0]:
        raise ValueError(
            f'cannot resume: {path} {found[0]}. Name another (--resume PATH), or none to take the newest that is whole '
            '(--resume); to begin a new run with its weights: load_from=…, resume=False'
        )


def _chosen(runner: Runner, path: Path | None, passed_over: Sequence[str]) -> str | None:
    if path is None and passed_over:
        raise ValueError(
            f'cannot resume: {runner.work_dir} has no checkpoint from which the run could go on exactly. Passed over: '
            f'{"; ".join(passed_over)}. Name one to resume from it all the same (--resume PATH), or remove them to '
            'begin anew'
        )
    for reason in passed_over:
        runner.logger.warning(f'Resuming from {path}; passed over {reason}')
    if path is None:
        runner.logger.warning(f'There is no checkpoint in {runner.work_dir} to resume from: training begins anew')
    return None if path is None else str(path)


def _stopping(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]
