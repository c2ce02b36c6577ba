"""Hooks: the classes of model and data, invalid losses, short histories, a checkpoint on SIGTERM."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from mmdet.engine.hooks import CheckInvalidLossHook
from mmdet.registry import HOOKS
from mmengine.dist import all_reduce, barrier
from mmengine.hooks import Hook
from mmengine.model import BaseModule, is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmoid.engine.resume.checkpoint_hook import ResumableCheckpointHook, gradients_pending
from mmoid.openimages.errors import AnnotationError

RESUMABLE = 75
"""Exit status of a run that SIGTERM ended and that can be resumed: EX_TEMPFAIL of sysexits.h."""

STATUS_FILE = 'MMOID_STATUS_FILE'
"""Environment variable: file for the exit status, because torchrun's own is always 1."""


@HOOKS.register_module()
class ClassOrderCheckHook(Hook):
    """Compares the classes of model, checkpoint, training set and validation set before training and before a test.

    Every head must have as many classes as the data. A module with ``label_names`` (a loss has those of its rates and
    its store) must have those of the data in the same order. So must the checkpoint of a test or of ``--resume``, the
    validation set, and each part of a ``ConcatDataset``; display names are compared where there are no MIDs. Case does
    not count. The classes would otherwise be confused silently.

    With ``--resume``, modules take the rates of the checkpoint, as in a test
    (:class:`~mmoid.models.class_lists.ClassBuffer`).

    Raises:
        AnnotationError: They differ.
    """

    priority = 'ABOVE_NORMAL'  # EMAHook, with priority 49 in mmdet's configs, loads its copy of the model at once

    def __init__(self) -> None:
        self.trained_on: dict[str, Any] = {}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        meta = checkpoint.get('meta', {})
        self.trained_on = {key.lower(): value for key, value in {**meta, **(meta.get('dataset_meta') or {})}.items()}
        for module in runner.model.modules() if runner._resume else ():
            if hasattr(module, 'training_run'):
                module.training_run.starts = False

    def before_train(self, runner: Runner) -> None:
        trained_on = self.trained_on if runner._resume else {}
        training = self._check(runner, 'training', runner.train_dataloader, trained_on, 'the checkpoint')
        if runner.val_loop is not None:
            self._check(runner, 'validation', runner.val_dataloader, training, 'the training set')

    def before_test(self, runner: Runner) -> None:
        self._check(runner, 'test', runner.test_dataloader, self.trained_on, 'the checkpoint')

    def _check(self, runner: Runner, split: str, loader: DataLoader, other: dict[str, Any], what: str) -> dict:
        """Checks one data set against itself, the model and ``other`` metainfo; returns its metainfo."""
        own, *parts = _parts(getattr(loader.dataset, 'metainfo', {}))
        for part in parts:
            _require_same_classes(own, part, f'the first part of the {split} set', split)
        classes, names = own.get('classes'), own.get('label_names')
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for key, module in model.named_modules():
            if classes and _is_head(key, module) and module.num_classes != len(classes):
                raise AnnotationError(
                    f'model.{key}.num_classes is {module.num_classes}, the {split} set has {len(classes)} classes'
                )
            if names and getattr(module, 'label_names', None):
                remedy = 'give the model the store, rates and classes of its training data'
                _require_same(module.label_names, names, f'model.{key}', split, remedy)
        _require_same_classes(other, own, what, split)
        return own


def _parts(metainfo: Any) -> list[dict[str, Any]]:
    """That of a data set, or of each part of a ``ConcatDataset``, whose parts may be such too."""
    return [part for one in metainfo for part in _parts(one)] if isinstance(metainfo, list) else [metainfo]


def _is_head(key: str, module: nn.Module) -> bool:
    """Whether a module predicts the classes of the data: a head of any kind, but no RPN, backbone or semantic head."""
    if any(part in key for part in ('rpn_head', 'backbone', 'semantic')) or hasattr(module, 'contrastive_cfg'):
        return False  # contrastive_cfg: a grounding head predicts tokens of a text
    return isinstance(module, BaseModule) and isinstance(getattr(module, 'num_classes', None), int)


def _require_same_classes(first: dict[str, Any], second: dict[str, Any], what: str, split: str) -> None:
    """Compares the MIDs of two data sets if both have them, else their display names."""
    remedy = 'prepare both with the same --classes file, or give both the same metainfo.classes'
    key = 'label_names' if first.get('label_names') and second.get('label_names') else 'classes'
    if first.get(key) and second.get(key):
        _require_same(first[key], second[key], what, split, remedy)


def _require_same(first: Sequence[str], second: Sequence[str], what: str, split: str, remedy: str) -> None:
    for row, (there, here) in enumerate(zip_longest(first, second, fillvalue='')):
        if there.casefold() != here.casefold():
            raise AnnotationError(
                f'the classes of {what} differ from those of the {split} set in names or order: class {row} is '
                f'{there or None!r} there and {here or None!r} here; {remedy}'
            )


@HOOKS.register_module()
class InvalidLossHook(CheckInvalidLossHook):
    """mmdet's ``CheckInvalidLossHook``, which names the losses and the images of the batch.

    It runs before the checkpoint hook, so the newest checkpoint is from before.

    Args:
        interval: Iterations between checks.

    Raises:
        FloatingPointError: A loss is NaN or infinite.
    """

    def __init__(self, interval: int = 1) -> None:
        super().__init__(interval)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        due = self.every_n_train_iters(runner, self.interval)
        values = {name: torch.as_tensor(value).item() for name, value in (outputs or {}).items() if due}
        invalid = [f'{name} is {value}' for name, value in values.items() if not math.isfinite(value)]
        if not invalid:
            return
        samples = data_batch.get('data_samples', ()) if isinstance(data_batch, dict) else ()
        images = [str(getattr(sample, 'img_id', getattr(sample, 'img_path', '?'))) for sample in samples]
        raise FloatingPointError(
            f'{", ".join(invalid)} in iteration {runner.iter + 1} (epoch {runner.epoch + 1}, rank {runner.rank}); '
            f'images of the batch: {", ".join(images) or "unknown"}. Look at their boxes, lower the learning rate, or '
            'set optim_wrapper.clip_grad; --resume resumes from the newest checkpoint'
        )


@HOOKS.register_module()
class LogHistoryHook(Hook):
    """Bounds the histories of logged scalars.

    mmengine keeps the last million values of each scalar, copies all of them whenever one is added, and writes them
    into every checkpoint. Longer windows of ``log_processor``, also ``window_size='epoch'`` and ``'global'``, keep what
    they need.

    Args:
        max_length: Number of values to keep of each scalar.

    Raises:
        ValueError: ``max_length`` below 1.
    """

    def __init__(self, max_length: int = 10_000) -> None:
        if max_length < 1:
            raise ValueError(f'default_hooks.log_history.max_length must be at least 1, got {max_length}')
        self.max_length = max_length
        self._global: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        windows = [self.max_length, runner.log_processor.window_size]
        for custom in runner.log_processor.custom_cfg:
            window = custom.get('window_size', 1)
            windows.append(len(runner.train_dataloader) if window == 'epoch' else window)
            if window == 'global':
                self._global.add(custom['data_src'])
        self.max_length = max(window for window in windows if isinstance(window, int))

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        # Every time, because a scalar may be new or restored from a checkpoint.
        for name, history in runner.message_hub.log_scalars.items():
            if name.split('/', 1)[-1] not in self._global:
                history.max_length = min(history.max_length, self.max_length)


class Terminated(Exception):
    """The run has ended because of SIGTERM; its state is in a checkpoint."""


class SigtermHook(Hook):
    """Writes a checkpoint at the end of the iteration in which any rank gets SIGTERM, and raises :class:`Terminated`.

    In a validation it ends at once: its epoch has been written.

    Args:
        checkpoints: The hook that writes the checkpoint.
    """

    priority = 'LOWEST'

    def __init__(self, checkpoints: ResumableCheckpointHook) -> None:
        self.checkpoints = checkpoints
        self.requested = False

    def before_train(self, runner: Runner) -> None:
        signal.signal(signal.SIGTERM, self._request)
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:  # schedulers signal all processes, and the loss of a worker would end the iteration
                loop.dataloader.worker_init_fn = partial(_keep_loading, loop.dataloader.worker_init_fn)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        requested = torch.tensor(int(self.requested))
        if runner.world_size > 1:
            all_reduce(requested, 'max')
        if requested and not gradients_pending(runner):
            self.checkpoints.write_iteration(runner)
            barrier()  # the launcher ends all ranks with the first
            self._leave(runner, f'wrote {self.checkpoints.last_ckpt}')

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if self.requested:
            self._leave(runner, 'a resumed run repeats this validation')

    def _request(self, number: int, frame: Any) -> None:
        self.requested = True

    def _leave(self, runner: Runner, what: str) -> None:
        runner.logger.warning(f'SIGTERM: {what}. Exit with status {RESUMABLE}; resume with --resume')
        if STATUS_FILE in os.environ:
            Path(os.environ[STATUS_FILE]).write_text(str(RESUMABLE))
        raise Terminated


def _keep_loading(init: Callable[[int], None] | None, worker: int) -> None:
    """Lets only the parent end a loader worker by SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def watch() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if init is not None:
        init(worker)
