"""Two processes, started by tools/dist_train.sh, killed by SIGKILL anywhere and started again."""

import random
import re
import shutil
import time

import pytest

from tests.engine.machines import launches, on_one_machine, write_config
from tests.engine.run_checks import assert_equal, history, state, train

INTERVAL = 3  # iterations between checkpoints
EPOCH = 11  # iterations; four epochs, the third is the first of the second stage
VICTIMS = ('rank 0', 'rank 1', 'both ranks', 'everything')


def iterations_seen(work_dir):
    """Numbers of the iterations that rank 0 has begun, those twice that were done again."""
    file = work_dir / 'rank0.jsonl'
    return [int(number) for number in re.findall(r'"iteration": (\d+)', file.read_text())] if file.exists() else []


def assert_same_run(work_dir, whole):
    for rank in (0, 1):
        assert history(work_dir, rank) == history(whole, rank)
    assert_equal(state(work_dir / 'epoch_4.pth'), state(whole / 'epoch_4.pth'))


def kill_at_random(data_root, work_dir, number):
    """Kills a run ``number`` times, each time something else, and lets it end."""
    seed = random.randrange(10**6)
    print(f'seed {seed}')
    draw = random.Random(seed)
    config, lengths = write_config(data_root, work_dir), []
    for piece, victim in enumerate(draw.sample(VICTIMS, number)):
        with launches(on_one_machine(config, 2, *['--resume'] * (piece > 0))) as (run,):
            # Far enough for one more checkpoint, so that the run gets on; near enough for all victims.
            enough = len(iterations_seen(work_dir)) + draw.randrange(INTERVAL + 1, 4 * EPOCH // number - 4)
            while len(iterations_seen(work_dir)) < enough:
                assert run.poll() is None, run.text()
                time.sleep(0.005)
            time.sleep(draw.random() * 0.15)  # in the middle of whatever
            run.kill(victim)
        lengths.append(len(iterations_seen(work_dir)))
    with launches(on_one_machine(config, 2, '--resume')) as (run,):
        assert run.finish() == 0, run.text()
    seen = iterations_seen(work_dir)
    for length in lengths:  # no more is lost than since the last checkpoint, or the one before if that was not done
        assert seen[length - 1] - INTERVAL <= seen[length]


@pytest.mark.parametrize('number', [2, *[pytest.param(4, marks=pytest.mark.slow, id=f'4-{i}') for i in range(6)]])
def test_a_run_killed_at_random_is_the_run_that_was_not(whole_of_two, tiny_data, tmp_path, number):
    kill_at_random(tiny_data, tmp_path, number)
    assert_same_run(tmp_path, whole_of_two)


PLACES = {
    'in the first iteration': [dict(at='iteration', number=0)],
    'around the second stage': [
        dict(at='iteration', number=2 * EPOCH - 1),
        dict(at='validation', number=2),
        dict(at='iteration', number=2 * EPOCH),
        dict(at='iteration', number=2 * EPOCH + 1),
    ],
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
    assert_same_run(tmp_path, whole_of_two)


def test_another_number_of_processes_resumes_only_between_epochs_with_the_same_total_batch(
    whole_of_two, tiny_data, tmp_path
):
    for path in whole_of_two.glob('*.pth'):
        shutil.copy(path, tmp_path)

    def resume(name, batch_size):
        train(tiny_data, tmp_path, resume=True, load_from=str(tmp_path / name), batch_size=batch_size)

    with pytest.raises(ValueError, match=r'\(world size\) is 1, but was 2 .* inside an epoch.* resume from .*epoch_'):
        resume('iter_42.pth', 4)
    with pytest.raises(ValueError, match=r'the total batch size .* is 2, but was 4 when'):
        resume('epoch_2.pth', 2)
    resume('epoch_2.pth', 4)
    assert list(history(tmp_path)) == list(range(2 * EPOCH, 4 * EPOCH))
