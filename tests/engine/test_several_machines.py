"""Runs on two machines: the same draws as on one, and an end on both when a process dies."""

import json
import os
import signal
import time

import pytest

from tests.engine.fake_slurm import write_commands
from tests.engine.machines import ROOT, Launch, launches, on_one_machine, on_two_machines, two_machines, write_config

MINUTE = 60


@pytest.fixture(scope='module')
def pair():
    with two_machines() as pair:
        yield pair


@pytest.fixture(scope='module')
def draws_of_one_machine(tiny_data, tmp_path_factory):
    """What both ranks of a run on one machine see."""
    work_dir = tmp_path_factory.mktemp('one')
    with launches(on_one_machine(write_config(tiny_data, work_dir), 2)) as (run,):
        assert run.finish() == 0, run.text()
    draws = [history(work_dir, rank) for rank in (0, 1)]
    assert {line['epoch'] for line in draws[0]} == set(range(5))
    return draws


def history(work_dir, rank):
    return [json.loads(line) for line in (work_dir / f'rank{rank}.jsonl').read_text().splitlines()]


def wait_for_iteration(runs, work_dir, number):
    file = work_dir / 'rank0.jsonl'
    while not file.exists() or len(file.read_text().splitlines()) < number:
        assert all(run.poll() is None for run in runs), [run.text() for run in runs]
        time.sleep(0.02)


def test_two_machines_draw_what_one_does(pair, draws_of_one_machine, tiny_data, tmp_path):
    with launches(*on_two_machines(pair, write_config(tiny_data, tmp_path), 1)) as runs:
        assert [run.finish() for run in runs] == [0, 0], [run.text() for run in runs]
    assert [history(tmp_path, rank) for rank in (0, 1)] == draws_of_one_machine


@pytest.mark.slow
def test_two_machines_of_two_ranks_draw_what_one_of_four_does(pair, tiny_data, tmp_path):
    one, two = (write_config(tiny_data, tmp_path / name) for name in ('one', 'two'))
    with launches(on_one_machine(one, 4)) as (run,):
        assert run.finish() == 0, run.text()
    with launches(*on_two_machines(pair, two, 2)) as runs:
        assert [run.finish() for run in runs] == [0, 0], [run.text() for run in runs]
    assert [history(two.parent, rank) for rank in range(4)] == [history(one.parent, rank) for rank in range(4)]


@pytest.mark.parametrize(
    ('how', 'rank'),
    [('SIGKILL', 0), pytest.param('exception', 1, marks=pytest.mark.slow)],
)
def test_a_dying_rank_ends_the_run_on_both_machines(how, rank, pair, tiny_data, tmp_path):
    config = write_config(tiny_data, tmp_path, dying=dict(how=how, rank=rank))
    with launches(*on_two_machines(pair, config, 1)) as runs:
        assert [run.finish() for run in runs] == [1, 1]
        # The rank dies in its last iteration.
        assert time.time() - max(path.stat().st_mtime for path in tmp_path.glob('rank*.jsonl')) < MINUTE
        cause = 'Signal 9 (SIGKILL)' if how == 'SIGKILL' else 'ArithmeticError: the test ends this rank'
        assert any(cause in run.text() for run in runs), 'torchrun reports the cause'


@pytest.mark.parametrize('machine', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_launcher_ends_the_run_on_both_machines(machine, pair, tiny_data, tmp_path):
    config = write_config(tiny_data, tmp_path, dying=dict(pause=1.0))
    with launches(*on_two_machines(pair, config, 1)) as runs:
        wait_for_iteration(runs, tmp_path, 3)
        runs[machine].process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        assert runs[machine].finish() == -signal.SIGKILL, 'its ranks have ended too'
        assert runs[1 - machine].finish() == 1
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


def test_a_slurm_job_of_two_nodes_draws_what_one_machine_does(slurm_on_path, draws_of_one_machine, tiny_data, tmp_path):
    with launches(on_slurm(write_config(tiny_data, tmp_path), '--cfg-options', 'log_level=ERROR')) as (run,):
        assert run.finish() == 0, run.text()
    assert [history(tmp_path, rank) for rank in (0, 1)] == draws_of_one_machine
    asked = json.loads((tmp_path / 'srun.json').read_text())
    program = ['-u', f'{ROOT}/tools/train.py', f'{tmp_path}/run.py', '--work-dir', str(tmp_path)]
    assert asked.pop('command')[1:] == [*program, '--launcher', 'slurm', '--cfg-options', 'log_level=ERROR']
    assert asked == {
        'p': 'a-partition',
        'job_name': 'a job',
        'gres': 'none',
        'exclude': 'node9',
        'ntasks': 2,
        'ntasks_per_node': 1,
        'cpus_per_task': 5,
        'kill_on_bad_exit': 1,
    }


@pytest.mark.slow
def test_a_dying_rank_ends_a_slurm_job(slurm_on_path, tiny_data, tmp_path):
    with launches(on_slurm(write_config(tiny_data, tmp_path, dying=dict(how='SIGKILL', rank=1)))) as (run,):
        assert run.finish() == 128 + signal.SIGKILL
        assert 'task 1: SIGKILL' in run.text()
        assert 'mmoid: srun ended with status 137' in run.text()


@pytest.mark.parametrize('name', ['slurm_train', 'slurm_test'])
def test_the_slurm_tools_print_their_usage(name, tmp_path):
    with launches(Launch(['bash', f'tools/{name}.sh', 'a-partition'], tmp_path / 'output.txt')) as (run,):
        assert run.finish() == 2
        assert f'bash tools/{name}.sh PARTITION JOB_NAME CONFIG' in run.text()
