"""A hook that writes what a rank and its loader's workers hold: memory and open files, once an epoch."""

from __future__ import annotations

import gc
import json
import os
from contextlib import suppress
from pathlib import Path

import psutil
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

BATCH = '/dev/shm/torch_'
"""Of shared memory in which a batch is on its way from a worker; how many there are is a matter of the moment."""


@HOOKS.register_module()
class Footprint(Hook):
    """A line for each epoch in ``<work_dir>/footprint<rank>.jsonl``: of the rank first, then of its workers.

    Taken in the last iteration of the epoch, when workers are there whether they persist or not.
    """

    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx + 1 < len(runner.train_dataloader):
            return
        gc.collect()
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        held = [open_files(process.pid) for process in processes]
        line = dict(
            epoch=runner.epoch,
            stage=int(runner.message_hub.get_scalar('train/stage').current()),
            private=[private_memory(process.pid) for process in processes],
            resident=[process.memory_info().rss for process in processes],
            open=[sorted(name for name in files if not name.startswith(BATCH)) for files in held],
            batches=[sum(name.startswith(BATCH) for name in files) for files in held],
        )
        with open(Path(runner.work_dir) / f'footprint{get_rank()}.jsonl', 'a') as stream:
            stream.write(json.dumps(line) + '\n')


def private_memory(pid: int) -> int:
    """Bytes that nothing but this process has made: pages of mapped files, which the system may drop, do not count."""
    for line in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines():
        if line.startswith('Anonymous:'):
            return int(line.split()[1]) * 1024
    raise AssertionError('smaps_rollup has no Anonymous')


def open_files(pid: int) -> list[str]:
    """What the file descriptors of a process lead to."""
    names = []
    for number in os.listdir(f'/proc/{pid}/fd'):
        with suppress(FileNotFoundError):  # the one that reads the folder
            names.append(os.readlink(f'/proc/{pid}/fd/{number}'))
    return names
