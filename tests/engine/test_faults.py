"""What a machine does to a run: full and read-only disks, SIGTERM, dead loader workers, losses that are NaN."""

import multiprocessing
import os
import re
import signal
import subprocess

import psutil
import pytest
from mmengine.hooks import Hook

from mmoid.engine.hooks import SigtermHook, Terminated
from mmoid.engine.launch import build_runner, one_line_error
from mmoid.engine.resume.checkpoint_hook import ResumableCheckpointHook, why_unusable
from tests.disks import fill, make_read_only
from tests.engine import small_run
from tests.engine.run_checks import history


class Fault(Hook):
    """Calls ``act`` before an iteration."""

    def __init__(self, number, act):
        self.number, self.act = number, act

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.number:
            self.act(runner)


def signal_all(runner):
    """SIGTERM to all processes, loader workers too, as Slurm sends it."""
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    subprocess.run(['kill', *(str(pid) for pid in [os.getpid(), *(worker.pid for worker in workers)])], check=True)


def test_sigterm_to_a_run_and_its_loader_workers_ends_it_with_a_checkpoint(tiny_data, tmp_path):
    runner = build_runner(small_run.config(tiny_data, tmp_path, batch_size=8, num_workers=2))
    (checkpoints,) = (hook for hook in runner.hooks if isinstance(hook, ResumableCheckpointHook))
    runner.register_hook(SigtermHook(checkpoints))
    runner.register_hook(Fault(4, signal_all))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(Terminated):
            runner.train()
    finally:
        signal.signal(signal.SIGTERM, before)
        runner.train_dataloader._iterator._shutdown_workers()
    assert (tmp_path / 'iter_5.pth').exists()


def train_until_error(data_root, work_dir, fault, **options):
    """Trains in this process; returns the one line of the error."""
    runner = build_runner(small_run.config(data_root, work_dir, batch_size=8, **options))
    runner.register_hook(fault)
    with pytest.raises(SystemExit) as error, one_line_error():
        runner.train()
    return str(error.value)


@pytest.mark.parametrize(('fault', 'reason'), [(fill, 'No space left'), (make_read_only, 'Read-only')])
def test_a_checkpoint_that_cannot_be_written_is_one_line_and_the_earlier_one_stays(
    fault, reason, small_disk, tiny_data, tmp_path
):
    end = Fault(5, lambda runner: fault(small_disk))
    out = {'default_hooks.checkpoint.out_dir': str(small_disk)}
    line = train_until_error(tiny_data, tmp_path / 'run', end, **out)
    folder = small_disk / 'run'
    assert re.fullmatch(rf'error: \[Errno \d+\] {folder}/iter_6\.pth: {reason}.*; free space, or write elsewhere', line)
    assert {path.name for path in folder.iterdir()} == {'iter_2.pth', 'iter_4.pth'}
    assert why_unusable(folder / 'iter_4.pth') == ''


def test_a_killed_loader_worker_is_one_line(tiny_data, tmp_path):
    fault = Fault(1, lambda runner: [child.kill() for child in psutil.Process().children()])
    line = train_until_error(tiny_data, tmp_path, fault, num_workers=1)
    assert re.match(r'error: DataLoader worker .* fewer train_dataloader\.num_workers\. --resume resumes from', line)


def spoil(runner):
    runner.model.head.bias.data.fill_(float('nan'))


def test_a_loss_that_is_nan_ends_the_run_with_the_images_of_the_batch(tiny_data, tmp_path):
    hooks = [dict(type='InvalidLossHook')]
    line = train_until_error(tiny_data, tmp_path, Fault(3, spoil), hooks=hooks)
    assert re.match(r'error: loss is nan in iteration 4 \(epoch 1, rank 0\); images of the batch: ', line)
    assert ', '.join(history(tmp_path)[3]['images']) in line
    assert {path.name for path in tmp_path.glob('*.pth')} == {'iter_2.pth'}


def test_weights_that_are_nan_are_never_in_a_checkpoint(tiny_data, tmp_path):
    """As on rank 0 if the loss of another rank is NaN."""
    line = train_until_error(tiny_data, tmp_path, Fault(3, spoil))
    assert line.startswith('error: weights are NaN or infinite after 3 iterations, so no checkpoint is written')
    assert {path.name for path in tmp_path.glob('*.pth')} == {'iter_2.pth'}
