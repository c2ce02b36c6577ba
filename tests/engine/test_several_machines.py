"""Runs over several machines: the same draws as on one, and an end on all of them when one rank dies."""

import json
import os
import re
import signal
import time
from argparse import Namespace

import pytest

from mmoid.torchrun import message
from tests.engine.fake_slurm import write_commands
from tests.engine.machines import ROOT, Launch, launches, on_one_machine, on_two_machines, two_machines, write_config

MINUTE = 60
KILLED = r'rank {rank} on .*, process \d+, was ended by SIGKILL at [\d:]+'
RAISED = r'rank {rank} on .*, process \d+, ended with status 1 at [\d:]+: ArithmeticError: seven is not a prime here'
GO_ON = r'the run has ended.*; once the cause is gone, --resume goes on from the newest checkpoint'


@pytest.fixture(scope='module')
def pair():
    with two_machines() as pair:
        print('two machines:', pair.namespaces or 'loopback')
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


def seconds_since_death(work_dir):
    """Since the last iteration that any rank began; a rank dies in it, or right after."""
    return time.time() - max(path.stat().st_mtime for path in work_dir.glob('rank*.jsonl'))


def wait_for_iteration(runs, work_dir, number):
    file = work_dir / 'rank0.jsonl'
    while not file.exists() or len(file.read_text().splitlines()) < number:
        assert all(run.poll() is None for run in runs), [run.text() for run in runs]
        time.sleep(0.02)


def test_two_machines_draw_what_one_does(pair, draws_of_one_machine, tiny_data, tmp_path):
    with launches(*on_two_machines(pair, write_config(tiny_data, tmp_path), 1)) as runs:
        assert [run.finish() for run in runs] == [0, 0], [run.text() for run in runs]
        assert [run.last_words() for run in runs] == ['', '']
    assert [history(tmp_path, rank) for rank in (0, 1)] == draws_of_one_machine


@pytest.mark.slow
def test_two_machines_of_two_ranks_draw_what_one_of_four_does(pair, tiny_data, tmp_path):
    one, two = (write_config(tiny_data, tmp_path / name) for name in ('one', 'two'))
    with launches(on_one_machine(one, 4)) as (run,):
        assert run.finish() == 0, run.text()
    with launches(*on_two_machines(pair, two, 2)) as runs:
        assert [run.finish() for run in runs] == [0, 0], [run.text() for run in runs]
    assert [history(two.parent, rank) for rank in range(4)] == [history(one.parent, rank) for rank in range(4)]


@pytest.mark.parametrize('how', ['SIGKILL', pytest.param('exception', marks=pytest.mark.slow)])
def test_a_rank_that_dies_ends_the_run_of_one_machine(how, tiny_data, tmp_path):
    with launches(on_one_machine(write_config(tiny_data, tmp_path, dying=dict(how=how, rank=1)), 2)) as (run,):
        assert run.finish() == 1
        assert seconds_since_death(tmp_path) < MINUTE
        expected = (KILLED if how == 'SIGKILL' else RAISED).format(rank=1)
        first, *_, last = run.last_words().splitlines()
        assert re.match(f'mmoid: {expected}', first), run.text()
        assert re.match(f'mmoid: {GO_ON}', last)


DEATHS = [
    ('SIGKILL', 0),  # the machine whose store all others hear through
    pytest.param('exception', 1, marks=pytest.mark.slow),
    pytest.param('SIGKILL', 1, marks=pytest.mark.slow),
    pytest.param('exception', 0, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(('how', 'rank'), DEATHS)
def test_a_rank_that_dies_ends_the_run_on_both_machines(how, rank, pair, tiny_data, tmp_path):
    config = write_config(tiny_data, tmp_path, dying=dict(how=how, rank=rank))
    with launches(*on_two_machines(pair, config, 1)) as runs:
        assert [run.finish() for run in runs] == [1, 1]
        assert seconds_since_death(tmp_path) < MINUTE
        expected = (KILLED if how == 'SIGKILL' else RAISED).format(rank=rank)
        for run in runs:
            first, *_, last = run.last_words().splitlines()
            assert re.match(f'mmoid: {expected}', first) and f'on machine {rank} (' in first, run.text()
            assert re.match(f'mmoid: {GO_ON}', last) and 'on all machines' in last


@pytest.mark.slow
@pytest.mark.parametrize('machine', [0, 1])
def test_a_machine_that_vanishes_ends_the_run(machine, tiny_data, tmp_path):
    config = write_config(tiny_data, tmp_path, dying=dict(pause=0.2))
    with two_machines() as pair, launches(*on_two_machines(pair, config, 1)) as runs:
        wait_for_iteration(runs, tmp_path, 3)
        pair.vanish(runs[machine], machine)
        gone = time.monotonic()
        other = runs[1 - machine]
        assert other.finish() == 1
        assert time.monotonic() - gone < MINUTE
        assert f'machine {machine} gave no sign of life for 30 s' in other.last_words()
        if pair.namespaces is not None:  # cut off, it does not go on by itself
            assert runs[machine].finish() == 1


@pytest.mark.slow
def test_a_machine_whose_launcher_is_killed_ends_the_run(pair, tiny_data, tmp_path):
    config = write_config(tiny_data, tmp_path, dying=dict(pause=0.2))
    with launches(*on_two_machines(pair, config, 1)) as runs:
        wait_for_iteration(runs, tmp_path, 3)
        runs[1].process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        runs[1].finish()  # with its rank
        assert runs[0].finish() == 1
        assert time.monotonic() - killed < MINUTE


@pytest.mark.slow
def test_ranks_end_with_their_launcher(tiny_data, tmp_path):
    config = write_config(tiny_data, tmp_path, dying=dict(pause=0.5))
    with launches(on_one_machine(config, 1)) as (run,):
        wait_for_iteration([run], tmp_path, 2)
        run.process.send_signal(signal.SIGKILL)
        assert run.finish() == -signal.SIGKILL
        assert len(history(tmp_path, 0)) < 10


@pytest.mark.slow
def test_a_launcher_that_is_asked_to_stop_stops_the_other_machine_too(pair, tiny_data, tmp_path):
    config = write_config(tiny_data, tmp_path, dying=dict(pause=0.5))
    with launches(*on_two_machines(pair, config, 1)) as runs:
        wait_for_iteration(runs, tmp_path, 2)
        runs[1].process.send_signal(signal.SIGINT)
        assert [run.finish() for run in runs] == [1, 128 + signal.SIGINT]
        assert all('the launcher received SIGINT' in run.last_words() for run in runs)


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
    assert asked['command'][1:] == [
        '-u', f'{ROOT}/tools/train.py', f'{tmp_path}/run.py', '--work-dir', str(tmp_path), '--launcher', 'slurm',
        '--cfg-options', 'log_level=ERROR',
    ]  # fmt: skip
    del asked['command']
    assert asked == dict(
        p='a-partition', job_name='a job', gres='none', exclude='node9', ntasks=2, ntasks_per_node=1, cpus_per_task=5,
        kill_on_bad_exit=1,
    )  # fmt: skip


@pytest.mark.slow
def test_a_rank_that_dies_ends_a_slurm_job(slurm_on_path, tiny_data, tmp_path):
    with launches(on_slurm(write_config(tiny_data, tmp_path, dying=dict(how='SIGKILL', rank=1)))) as (run,):
        assert run.finish() == 128 + signal.SIGKILL
        assert seconds_since_death(tmp_path) < MINUTE
        assert 'task 1: SIGKILL' in run.text()
        assert run.last_words().startswith('mmoid: srun ended with status 137') and '--resume' in run.last_words()


@pytest.mark.parametrize(
    ('env', 'message'),
    [
        ({}, 'SLURM_PROCID is not set, so this process was not started by srun; use tools/slurm_train.sh'),
        (
            dict(SLURM_PROCID=0, SLURM_NTASKS=1, SLURM_LOCALID=0, SLURM_NODELIST='n[1-2]', PATH='/nowhere'),
            '`scontrol show hostnames n[1-2]` does not tell the first machine of the job',
        ),
    ],
)
def test_a_process_outside_of_slurm_is_told_so(env, message, monkeypatch):
    from mmoid.engine.rank_process import name_slurm_ranks

    for name, value in env.items():
        monkeypatch.setenv(name, str(value))
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '')  # restored afterwards
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match=re.escape(message)):
        name_slurm_ranks()


@pytest.mark.parametrize('name', ['slurm_train', 'slurm_test'])
def test_the_slurm_tools_say_how_they_are_used(name, tmp_path):
    with launches(Launch(['bash', f'tools/{name}.sh', 'a-partition'], tmp_path / 'output.txt')) as (run,):
        assert run.finish() == 2
        assert f'bash tools/{name}.sh PARTITION JOB_NAME CONFIG' in run.text()


def failure(rank, time, lost_peers=False, **fields):
    return {'rank': rank, 'pid': 7, 'signal': None, 'status': 1, 'message': '', 'time': time,
            'lost_peers': lost_peers, **fields}  # fmt: skip


def test_the_cause_is_named_before_what_it_caused():
    args = Namespace(nnodes='2', training_script='tools/train.py', training_script_args=['--resume'])
    machine = dict(host='a', reason=None)
    reports = {
        0: {**machine, 'ranks': [failure(0, 5, lost_peers=True, message='NCCL error'), failure(1, 5, lost_peers=True)]},
        1: {**machine, 'ranks': [failure(2, 5, lost_peers=True), failure(3, 6, message='KeyError: 3')]},
    }
    lines = message(reports, args).splitlines()
    assert [re.findall(r'rank (\d)', line)[:1] for line in lines] == [['3'], ['0'], ['1'], ['2'], []]
    assert lines[0].endswith(': KeyError: 3') and 'lost another rank' not in lines[0]
    assert all(line.endswith('(most likely because it lost another rank)') for line in lines[1:4])
    assert lines[-1].endswith('once the cause is gone, the same command goes on from the newest checkpoint')


def test_a_rank_that_the_launcher_ended_comes_after_the_one_that_died():
    args = Namespace(nnodes='1', training_script='tools/train.py', training_script_args=[])
    ranks = [failure(0, 5, signal='SIGTERM', status=-15), failure(1, 5, signal='SIGKILL', status=-9)]
    lines = message({0: dict(host='a', reason=None, ranks=ranks)}, args).splitlines()
    assert [re.findall(r'rank (\d)', line)[:1] for line in lines] == [['1'], ['0'], []]


def test_a_lost_machine_is_named_before_ranks_that_lost_their_peers():
    args = Namespace(nnodes='2', training_script='tools/test.py', training_script_args=[])
    reports = {0: dict(host='a', reason='machine 1 gave no sign of life', ranks=[failure(0, 5, lost_peers=True)])}
    lines = message(reports, args).splitlines()
    assert lines[0] == 'mmoid: machine 0 (a): machine 1 gave no sign of life'
    assert lines[-1] == 'mmoid: the run has ended on all machines'
