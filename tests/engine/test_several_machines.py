"""Runs on two machines: the same draws as on one, and an end on both when a process dies."""

import json
import os
import signal
import time

import pytest

from mmoid.engine.hooks import RESUMABLE
from tests.engine.fake_slurm import write_commands
from tests.engine.machines import ROOT, Launch, launches, on_two_machines, two_machines, write_config
from tests.engine.run_checks import history

MINUTE = 60
LAST = 24  # iteration; in the second stage


@pytest.fixture(scope='module')
def pair():
    with two_machines() as pair:
        yield pair


def draws(work_dir, stop=None):
    """What each of two ranks saw in its first iterations."""
    return [list(history(work_dir, rank).values())[:stop] for rank in (0, 1)]


@pytest.mark.parametrize(('how', 'rank'), [('SIGKILL', 0), pytest.param('exception', 1, marks=pytest.mark.slow)])
def test_a_dying_rank_ends_the_run_on_both_machines(how, rank, pair, whole_of_two, tiny_data, tmp_path):
    end = dict(end=dict(at='iteration', number=LAST), rank=rank, kill=how == 'SIGKILL')
    config = write_config(tiny_data, tmp_path, **end)
    with launches(*on_two_machines(pair, config, 1)) as runs:
        assert [run.finish() for run in runs] == [1, 1]
        # The rank dies in its last iteration.
        assert time.time() - max(path.stat().st_mtime for path in tmp_path.glob('rank*.jsonl')) < MINUTE
        cause = 'Signal 9 (SIGKILL)' if how == 'SIGKILL' else 'Interrupted: the test ends this rank'
        assert any(cause in run.text() for run in runs), 'torchrun reports the cause'
    assert draws(tmp_path, stop=LAST) == draws(whole_of_two, stop=LAST), 'two machines draw what one does'


@pytest.mark.slow
@pytest.mark.parametrize('machine', [0, 1])
def test_a_killed_launcher_ends_the_run_on_both_machines(machine, pair, tiny_data, tmp_path):
    config = write_config(tiny_data, tmp_path, pause=1.0)
    with launches(*on_two_machines(pair, config, 1)) as runs:
        while not (tmp_path / 'rank0.jsonl').exists():
            assert all(run.poll() is None for run in runs), [run.text() for run in runs]
            time.sleep(0.02)
        runs[machine].process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        assert runs[machine].finish() == -signal.SIGKILL, 'its ranks have ended too'
        # The kernel sends SIGTERM to its ranks, so all ranks end with a checkpoint.
        assert runs[1 - machine].finish() == RESUMABLE
        assert time.monotonic() - killed < MINUTE


@pytest.fixture
def slurm_on_path(tmp_path, monkeypatch):
    write_commands(tmp_path / 'commands')
    monkeypatch.setenv('PATH', f'{tmp_path / "commands"}:{os.environ["PATH"]}')
    monkeypatch.setenv('FAKE_SLURM', str(tmp_path))
    monkeypatch.setenv('GPUS', '2')
    monkeypatch.setenv('GPUS_PER_NODE', '1')
    monkeypatch.setenv('SRUN_ARGS', '--gres=none --exclude=node9')


def on_slurm(config, *arguments):
    command = ['bash', 'tools/slurm_train.sh', 'a-partition', 'a job', config, config.parent, *arguments]
    return Launch(command, config.parent / 'output.txt')


def test_a_slurm_job_of_two_nodes_draws_what_one_machine_does(slurm_on_path, whole_of_two, tiny_data, tmp_path):
    with launches(on_slurm(write_config(tiny_data, tmp_path), '--cfg-options', 'log_level=ERROR')) as (run,):
        assert run.finish() == 0, run.text()
    assert draws(tmp_path) == draws(whole_of_two)
    asked = json.loads((tmp_path / 'srun.json').read_text())
    program = ['-u', f'{ROOT}/tools/train.py', f'{tmp_path}/run.py', '--work-dir', str(tmp_path)]
    assert asked.pop('command')[1:] == [*program, '--launcher', 'slurm', '--cfg-options', 'log_level=ERROR']
    given = dict(p='a-partition', job_name='a job', gres='none', exclude='node9')
    assert asked == dict(given, ntasks=2, ntasks_per_node=1, cpus_per_task=5, kill_on_bad_exit=1)
