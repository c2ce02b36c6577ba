"""Two processes, started by tools/dist_train.sh, ended by SIGTERM or killed by SIGKILL anywhere and started again."""

import random
import re
import shutil
import signal
import time

import pytest

from mmoid.engine.hooks import RESUMABLE
from tests.engine.machines import launches, on_one_machine, write_config
from tests.engine.run_checks import assert_same, history, iterations, train

INTERVAL = 3  # iterations between checkpoints
EPOCH = 11  # iterations; four epochs, the third is the first of the second stage
VICTIMS = ('rank 0', 'rank 1', 'both ranks', 'everything')


def iterations_seen(work_dir):
    """Numbers of the iterations that rank 0 has begun, those twice that were done again."""
    file = work_dir / 'rank0.jsonl'
    return [int(number) for number in re.findall(r'"iteration": (\d+)', file.read_text())] if file.exists() else []


def end_by_sigterm(run, work_dir):
    run.process.send_signal(signal.SIGTERM)
    assert run.finish() == RESUMABLE, run.text()
    checkpoint = work_dir / f'iter_{iterations_seen(work_dir)[-1] + 1}.pth'
    assert checkpoint.exists(), 'nothing is done again'
    assert f'SIGTERM: wrote {checkpoint}. Exit with status 75; resume with --resume' in run.text()


def kill_at_random(data_root, work_dir, number):
    """Ends a run by SIGTERM to its launcher, kills it ``number`` times, each time something else, and lets it end."""
    seed = random.randrange(10**6)
    print(f'seed {seed}')
    draw = random.Random(seed)
    lengths = []
    for piece, victim in enumerate(['launcher', *draw.sample(VICTIMS, number)]):
        config = write_config(data_root, work_dir, pause=0.03 if piece else 0.2)  # no SIGTERM in the first validation
        with launches(on_one_machine(config, 2, *['--resume'] * (piece > 0))) as (run,):
            # Far enough for one more checkpoint, so that the run gets on; near enough for all victims.
            further = draw.randrange(INTERVAL + 1, 4 * EPOCH // (number + 1) - 4) if piece else 1
            enough = len(iterations_seen(work_dir)) + further
            while len(iterations_seen(work_dir)) < enough:
                assert run.poll() is None, run.text()
                time.sleep(0.005)
            time.sleep(draw.random() * 0.15)  # in the middle of whatever
            run.kill(victim) if piece else end_by_sigterm(run, work_dir)
        lengths.append(len(iterations_seen(work_dir)))
    with launches(on_one_machine(config, 2, '--resume')) as (run,):
        assert run.finish() == 0, run.text()
    seen = iterations_seen(work_dir)
    for length in lengths:  # no more is lost than since the last checkpoint, or the one before if that was not done
        assert seen[length - 1] - INTERVAL <= seen[length]


@pytest.mark.parametrize('number', [1, *[pytest.param(3, marks=pytest.mark.slow, id=f'3-{i}') for i in range(6)]])
def test_a_run_killed_at_random_is_the_run_that_was_not(whole_of_two, tiny_data, tmp_path, number):
    kill_at_random(tiny_data, tmp_path, number)
    assert_same(tmp_path, whole_of_two, ranks=2)


PLACES = {
    'in the first iteration': iterations([0]),
    'around the second stage': [*iterations([21]), dict(at='validation', number=2), *iterations([22, 23])],
    'while writing': [dict(at=at, number=1) for at in ('writing', 'naming', 'pointing')],
}


@pytest.mark.slow
# Rank 1 writes no checkpoints.
@pytest.mark.parametrize(
    ('place', 'rank'), [(place, rank) for place in PLACES for rank in (0, 1) if (place, rank) != ('while writing', 1)]
)
def test_a_run_killed_in_a_certain_place_is_the_run_that_was_not(whole_of_two, tiny_data, tmp_path, place, rank):
    for piece, end in enumerate([*PLACES[place], None]):
        config = write_config(tiny_data, tmp_path, end=end, rank=rank, kill=True)
        with launches(on_one_machine(config, 2, *['--resume'] * (piece > 0))) as (run,):
            assert (run.finish() == 0) == (end is None), run.text()
    assert_same(tmp_path, whole_of_two, ranks=2)


def test_resume_without_a_checkpoint_starts_from_load_from(whole, tiny_data, tmp_path):
    config = write_config(tiny_data, tmp_path, end=dict(at='iteration', number=0), log_level='INFO')
    weights = f'{whole}/epoch_4.pth'
    with launches(on_one_machine(config, 1, '--resume', '--cfg-options', f'load_from={weights}')) as (run,):
        assert run.finish() == 1 and f'Load checkpoint from {weights}' in run.text()


def test_another_number_of_processes_resumes_between_epochs(whole_of_two, tiny_data, tmp_path):
    shutil.copy(whole_of_two / 'epoch_2.pth', tmp_path)
    train(tiny_data, tmp_path, resume=True, batch_size=4)
    assert list(history(tmp_path)) == list(range(2 * EPOCH, 4 * EPOCH))
