"""A hook that writes what a rank and its loader's workers hold: memory and open files, once an epoch."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import psutil
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


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
        line = dict(
            epoch=runner.epoch,
            stage=int(runner.message_hub.get_scalar('train/stage').current()),
            private=[private_memory(process.pid) for process in processes],
            resident=[process.memory_info().rss for process in processes],
            files=[process.num_fds() for process in processes],
            open=sorted(os.readlink(f'/proc/self/fd/{number}') for number in open_files()),
        )
        with open(Path(runner.work_dir) / f'footprint{get_rank()}.jsonl', 'a') as stream:
            stream.write(json.dumps(line) + '\n')


def private_memory(pid: int) -> int:
    """Bytes that nothing but this process has made: pages of mapped files, which the system may drop, do not count."""
    for line in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines():
        if line.startswith('Anonymous:'):
            return int(line.split()[1]) * 1024
    raise AssertionError('smaps_rollup has no Anonymous')


def open_files() -> list[str]:
    """Numbers, without the one that reads them."""
    return [number for number in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{number}')]
