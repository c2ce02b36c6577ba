"""ResumableCheckpointHook: intact checkpoints inside epochs, and the choice of the one to resume from.

Also how checkpoints are read: in full, and without unpickling.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.registry import HOOKS
from mmengine.dist import broadcast, broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import BaseLoop, CheckpointLoader, Runner, find_latest_checkpoint

from mmoid.engine.resume.train_loop import ResumableEpochTrainLoop
from mmoid.utils.atomic import atomic_write, remove_abandoned

PARTS = ('meta', 'state_dict', 'message_hub', 'optimizer')
STATISTICS = ('mean', 'max', 'min', 'current')
ITER_NAME = 'iter_{}.pth'
ITER_KEPT = 2  # one of them may be damaged

RUN_FACTS = {
    'total_batch_size': 'the total batch size (world size x train_dataloader.batch_size)',
    'world_size': 'the number of processes (world size)',
    'batch_size': 'train_dataloader.batch_size',
    'images': 'the number of images in train_dataloader.dataset',
    'iterations_per_epoch': 'the number of iterations of an epoch',
    'seed': 'randomness.seed',
}
"""Settings that must match for an exact resume."""
INSIDE_EPOCH = ('world_size', 'batch_size')
"""Those that must match only inside an epoch, where another division of the batches would repeat some images."""


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook by epochs, plus ``iter_<n>.pth`` every ``iter_interval`` iterations inside them.

    All checkpoints are written atomically. That of an epoch is written again after its validation: a resumed run
    repeats a validation that did not finish.

    ``--resume`` without a path takes the newest checkpoint that can be read in full and logs those that it skipped.
    Without any checkpoint, a new run starts, from ``load_from`` if the config has it.
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
            raise ValueError('default_hooks.checkpoint.by_epoch is False; set iter_interval to save by iterations')
        if iter_interval is not None and iter_interval < 1:
            raise ValueError(f'default_hooks.checkpoint.iter_interval must be at least 1 or None, got {iter_interval}')
        if max_keep_ckpts in (0, 1):
            raise ValueError(f'default_hooks.checkpoint.max_keep_ckpts must be at least 2, or -1, got {max_keep_ckpts}')
        super().__init__(interval=interval, by_epoch=True, max_keep_ckpts=max_keep_ckpts, **kwargs)
        self.iter_interval = iter_interval
        self._iter_due = False
        of_epochs = ('filename_tmpl', 'save_begin', 'save_best', 'rule', 'greater_keys', 'less_keys', 'published_keys')
        inside = {key: value for key, value in kwargs.items() if key not in of_epochs}
        self._inside = CheckpointHook(by_epoch=False, filename_tmpl=ITER_NAME, **inside)

    def before_run(self, runner: Runner) -> None:
        """Chooses the checkpoint before the runner would take the one in ``last_checkpoint``."""
        allow_checkpoint_globals()
        loop = runner._train_loop
        if not isinstance(loop, BaseLoop):
            return  # a test run
        if self.save_best and runner._val_loop is None:
            runner.logger.warning('default_hooks.checkpoint.save_best has no effect: the run has no validation')
        if self.iter_interval is not None and not isinstance(loop, ResumableEpochTrainLoop):
            raise ValueError(
                f'default_hooks.checkpoint.iter_interval is {self.iter_interval}, but train_cfg.type is '
                f'{type(loop).__name__}, which repeats the epoch when it resumes inside one; set '
                "train_cfg.type='ResumableEpochTrainLoop', or iter_interval=None"
            )
        if runner._resume and '://' not in str(runner._load_from or self.out_dir):
            path = self._choose(runner)
            # Otherwise mmengine would take the file named in last_checkpoint, even if it does not exist.
            runner._resume, runner._load_from = path is not None, path or runner.cfg.get('load_from')

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self._inside.before_train(runner)
        self.last_ckpt = runner.message_hub.get_info('last_ckpt')  # of a resumed run; mmengine does not restore it
        if self._writes_files():
            remove_abandoned(Path(self.out_dir), '.writing-*')
            save = runner.save_checkpoint

            def save_atomically(out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
                with atomic_write(Path(out_dir) / filename) as temporary:
                    save(out_dir, temporary.name, *args, **kwargs)

            runner.save_checkpoint = save_atomically

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self._iter_due |= self.iter_interval is not None and self.every_n_train_iters(runner, self.iter_interval)
        if self._iter_due and not gradients_pending(runner):
            self._iter_due = False
            self.write_iteration(runner)

    def write_iteration(self, runner: Runner) -> None:
        """Writes ``iter_<n>.pth`` at the end of an iteration."""
        self._inside._save_checkpoint(runner)
        self.last_ckpt = self._inside.last_ckpt
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
            super()._save_checkpoint_with_step(runner, runner.epoch, dict(epoch=runner.epoch, iter=runner.iter))

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
        for name in self.save_best or ():
            if name not in (*metrics, 'auto'):
                given = ', '.join(map(repr, metrics))
                raise ValueError(f'default_hooks.checkpoint.save_best is {name!r}, but the validation gave {given}')
        super()._save_best_checkpoint(runner, metrics)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        meta = checkpoint['meta']
        if 'run' in meta:  # not if another hook wrote it
            inside_epoch = meta['iter'] != meta['epoch'] * meta['run']['iterations_per_epoch']
            require_same_run(meta['run'], run_facts(runner), inside_epoch)
        states = checkpoint.get('early_stopping', [])
        for hook, state in zip(_early_stopping_hooks(runner), states):
            hook.wait_count, hook.best_score = state['wait_count'], state['best_score']
            if state['stopped']:
                runner.logger.warning('EarlyStoppingHook ended this run; to continue it, remove the hook')
                runner.train_loop.stop_training = True

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if step > runner.epoch:  # else mmengine wants to save a new best score, which after_val does
            super()._save_checkpoint_with_step(runner, step, meta)

    def _writes_files(self) -> bool:
        return is_main_process() and isinstance(self.file_backend, LocalBackend)

    def _choose(self, runner: Runner) -> str | None:
        """The given or the newest usable checkpoint, the same on all ranks; None if there is no checkpoint."""
        work_dir, given = Path(runner.work_dir), runner._load_from
        folder = work_dir if self.out_dir is None else Path(self.out_dir) / work_dir.name
        found: list[Any] = [None, []]
        if is_main_process():
            names = [self.filename_tmpl, ITER_NAME]
            for path in [Path(given).expanduser()] if given else newest_first(work_dir, folder, names):
                reason = why_unusable(path, exact=not given)
                if not reason:
                    found[0] = str(path)
                    break
                found[1].append(f'{path}: {reason}')
        broadcast_object_list(found)
        path, skipped = found
        if path is None and skipped:
            raise ValueError(
                f'cannot resume exactly from {"; ".join(skipped)}. Give the path of another one (--resume PATH), '
                'or start a new run: in another folder, or from the weights with load_from=..., resume=False'
            )
        if path is None:
            runner.logger.warning(f'no checkpoint to resume from in {work_dir}: starting a new run')
        for reason in skipped:
            runner.logger.warning(f'resuming from {path}; skipped {reason}')
        return path


def run_facts(runner: Runner) -> dict[str, Any]:
    """The values of :data:`RUN_FACTS`, which are written into checkpoints."""
    loader = runner.train_dataloader
    batch_size = loader.batch_sampler.batch_size
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

    Raises:
        ValueError: A fact differs that must not.
    """
    other_ways = dict.fromkeys(INSIDE_EPOCH, 'resume from a checkpoint at the end of an epoch (epoch_*.pth), ')
    for fact, name in RUN_FACTS.items():
        if inside_epoch or fact not in INSIDE_EPOCH:
            require_unchanged(name, own[fact], saved[fact], other_ways.get(fact, ''))


def gradients_pending(runner: Runner) -> bool:
    """Whether there are accumulated gradients that no optimizer step has used; each rank has its own part of them."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.optim_wrappers.values() if isinstance(wrapper, OptimWrapperDict) else (wrapper,)
    return any(not each.should_update() for each in wrappers)


def _early_stopping_hooks(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]


def newest_first(work_dir: Path, folder: Path, names: Sequence[str]) -> list[Path]:
    """Lists checkpoints to resume from, best candidate first.

    First comes the one named in ``work_dir/last_checkpoint``, then those in ``folder`` by modification time, not by
    number: a run that was set back to an older checkpoint writes lower numbers later. ``names`` have ``{}`` for the
    number.
    """
    pattern = '|'.join(re.escape(name).replace(r'\{\}', '[0-9]+') for name in names)
    files = [path for path in folder.glob('*') if re.fullmatch(pattern, path.name)]
    files.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    last = find_latest_checkpoint(str(work_dir))
    if last is not None and Path(last).is_file():
        files = [Path(last), *(path for path in files if path.resolve() != Path(last).resolve())]
    return files


def why_unusable(path: Path, exact: bool = True) -> str:
    """Why a run cannot resume from a checkpoint, of which every byte is read with ``weights_only=True``; '' if it can.

    ``exact`` also refuses one that was written between two updates of accumulated gradients.
    """
    allow_checkpoint_globals()
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not compare the checksums
        if damaged is not None:
            return f'the checksum of {damaged} is wrong'
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged file makes torch, pickle and zipfile raise almost any exception
        return f'it cannot be read, {f"{type(error).__name__}: {error}".splitlines()[0]}'
    for part in PARTS:
        if part not in checkpoint:
            return f'it has no {part!r}'
    pending = exact and checkpoint['meta'].get('pending_gradients', False)
    return 'it was written between two updates of accumulated gradients' if pending else ''


def try_load(path: str | Path) -> dict[str, Any]:
    """A checkpoint at a path, or at a URL that mmengine knows.

    Raises:
        ValueError: It is damaged, asks for code to be run, or is no checkpoint.
        OSError: It cannot be opened.
    """
    allow_checkpoint_globals()
    try:
        checkpoint = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    except OSError:
        raise
    except Exception as error:  # as in why_unusable
        fault = f'{type(error).__name__}: {error}'.splitlines()[0]
        raise ValueError(f'{path}: cannot be read as a checkpoint ({fault})') from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{path}: holds a {type(checkpoint).__name__}; expected a checkpoint with a state_dict')
    return checkpoint


def require_unchanged(what: str, now: object, before: object, other_way: str = '') -> None:
    """Compares a setting of a run with that in the checkpoint from which it resumes.

    Raises:
        ValueError: They differ.
    """
    if now != before:
        raise ValueError(
            f'cannot resume: {what} is {now}, but was {before} when the checkpoint was written; undo the change, '
            f'{other_way}or start a new run from its weights: load_from=..., resume=False'
        )


def allow_checkpoint_globals() -> None:
    """Lets torch read the log history in mmengine's checkpoints without unpickling, and nothing with it.

    From torch 2.6 on, ``weights_only=True`` is the default: mmengine 0.10.7 then cannot resume at all. The onedl fork
    removes, after each load, the names that it added itself. Hence call this before each load.
    """
    # The forks' loader would try again with weights_only=False, and so does the one of URLs. 0 allows that for a file
    # that one trusts.
    os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 6):
        return
    dtypes = [kind for kind in vars(np.dtypes).values() if isinstance(kind, type) and issubclass(kind, np.dtype)]
    names = [HistoryBuffer, np.ndarray, np.dtype, *dtypes, (_statistics_method, 'builtins.getattr')]
    # A checkpoint names numpy's internals as the numpy version that wrote it does.
    reconstruct, scalar = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):
        names += [(reconstruct, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    torch.serialization.add_safe_globals(names)


def _statistics_method(owner: type, name: str) -> Callable[..., Any]:
    """Replaces ``getattr``, by which a pickled HistoryBuffer names its methods; returns only those."""
    if owner is not HistoryBuffer or name not in STATISTICS:
        raise ValueError(f'a checkpoint asks for {name!r} of {owner!r}; only statistics of HistoryBuffer are allowed')
    return getattr(HistoryBuffer, name)
