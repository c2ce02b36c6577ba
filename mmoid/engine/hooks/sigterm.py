"""SigtermHook: a checkpoint when a scheduler ends the run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmoid.engine.resume.checkpoint_hook import ResumableCheckpointHook, gradients_pending

RESUMABLE = 75
"""Exit status of a run that SIGTERM ended and that can be resumed: EX_TEMPFAIL of sysexits.h."""

STATUS_FILE = 'MMOID_STATUS_FILE'
"""Environment variable: file for the exit status, because torchrun's own is always 1."""


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

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        requested = torch.tensor(int(self.requested))
        if runner.world_size > 1:
            all_reduce(requested, 'max')
        if requested and not gradients_pending(runner):
            self.checkpoints.write_iteration(runner)
            barrier()  # the launcher ends all ranks with the first
            self._leave(runner, f'wrote {self.checkpoints.last_ckpt}')

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
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
