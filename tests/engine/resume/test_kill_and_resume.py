"""Two processes, started by tools/dist_train.sh, killed by SIGKILL anywhere and started again."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.engine.resume import resume_run
from tests.engine.resume.resume_checks import assert_equal, history, state, train

ROOT = Path(__file__).parents[3]
INTERVAL = 3  # iterations between checkpoints
EPOCH = 11  # iterations; four epochs, the third is the first of the second stage
LAST = 4 * EPOCH - 1
PAUSE = 0.03  # seconds that an iteration takes at least, however fast the machine
VICTIMS = ('rank 0', 'rank 1', 'both ranks', 'everything')


class Launch:
    """``tools/dist_train.sh`` and all processes below it."""

    def __init__(self, data_root, work_dir, *arguments, **end):
        options = {'batch_size': 2, 'num_workers': 1, 'default_hooks.checkpoint.iter_interval': INTERVAL}
        cfg = resume_run.config(data_root, work_dir, kill=True, pause=PAUSE, **end, **options)
        cfg.custom_imports = dict(imports=['mmoid.registry', 'resume_run'])
        work_dir.mkdir(exist_ok=True)
        cfg.dump(str(work_dir / 'run.py'))
        self.work_dir = work_dir
        self.output = open(work_dir / f'output{time.time():.0f}.txt', 'w+')
        self.process = psutil.Popen(
            ['bash', 'tools/dist_train.sh', str(work_dir / 'run.py'), '2', *arguments],
            cwd=ROOT,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
                'PYTHONPATH': f'{ROOT}:{ROOT / "tests" / "engine" / "resume"}',
            },
        )

    def wait_for(self, iterations):
        """Until so many more were seen."""
        start = len(iterations_seen(self.work_dir))
        while len(iterations_seen(self.work_dir)) < start + iterations:
            assert self.process.poll() is None, self.text()
            time.sleep(0.005)

    def kill(self, victim):
        """Kills without warning, and returns when not one process is left."""
        family = self.process.children(recursive=True)
        ranks = {child.environ()['RANK']: child for child in self.process.children() if 'RANK' in child.environ()}
        chosen = {
            'rank 0': [ranks['0']],
            'rank 1': [ranks['1']],
            'both ranks': list(ranks.values()),
            'everything': [self.process, *family],
        }[victim]
        for process in chosen:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        assert self.process.wait(timeout=60) != 0
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive

    def finish(self):
        """Waits for the end, whatever it is; returns the exit status."""
        family = []
        while self.process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                family = self.process.children(recursive=True)
            time.sleep(0.05)
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive
        return self.process.returncode

    def text(self):
        self.output.seek(0)
        return self.output.read()[-4000:]


def iterations_seen(work_dir):
    """Numbers of the iterations that rank 0 has begun, those twice that were done again."""
    file = work_dir / 'rank0.jsonl'
    return [int(number) for number in re.findall(r'"iteration": (\d+)', file.read_text())] if file.exists() else []


@pytest.fixture(scope='module')
def whole(tiny_data, tmp_path_factory):
    """Work folder of the run that nothing killed."""
    work_dir = tmp_path_factory.mktemp('whole')
    launch = Launch(tiny_data, work_dir)
    assert launch.finish() == 0, launch.text()
    assert [len(history(work_dir, rank)) for rank in (0, 1)] == [LAST + 1] * 2
    return work_dir


def assert_same_run(work_dir, whole):
    for rank in (0, 1):
        assert history(work_dir, rank) == history(whole, rank)
    assert_equal(state(work_dir / 'epoch_4.pth'), state(whole / 'epoch_4.pth'))


def kill_at_random(data_root, work_dir, victims, draw):
    """Kills a run once for each victim, and lets it end."""
    lengths = []
    for piece, victim in enumerate(victims):
        launch = Launch(data_root, work_dir, *['--resume'] * (piece > 0))
        # Far enough for a checkpoint more, so that the run gets on; near enough for all victims to get their turn.
        launch.wait_for(draw.randrange(INTERVAL + 1, LAST // len(victims) - 4))
        time.sleep(draw.random() * 5 * PAUSE)  # in the middle of whatever
        launch.kill(victim)
        lengths.append(len(iterations_seen(work_dir)))
    launch = Launch(data_root, work_dir, '--resume')
    assert launch.finish() == 0, launch.text()
    seen = iterations_seen(work_dir)
    for length in lengths:  # no more is lost than since the last checkpoint, or the one before if that was not done
        assert seen[length - 1] - INTERVAL <= seen[length]
    print([(victim, seen[length - 1], seen[length]) for victim, length in zip(victims, lengths)])


def random_draw():
    seed = random.randrange(10**6)
    print(f'seed {seed}')
    return random.Random(seed)


def test_a_run_killed_three_times_is_the_run_that_was_not(whole, tiny_data, tmp_path):
    draw = random_draw()
    kill_at_random(tiny_data, tmp_path, draw.sample(VICTIMS, 3), draw)
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize('run', range(6))
def test_runs_killed_four_times_are_the_run_that_was_not(whole, tiny_data, tmp_path, run):
    draw = random_draw()
    kill_at_random(tiny_data, tmp_path, draw.sample(VICTIMS, 4), draw)
    assert_same_run(tmp_path, whole)


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
def test_a_run_killed_in_a_certain_place_is_the_run_that_was_not(whole, tiny_data, tmp_path, place, rank):
    for piece, end in enumerate([*PLACES[place], None]):
        launch = Launch(tiny_data, tmp_path, *['--resume'] * (piece > 0), end=end, rank=rank)
        assert (launch.finish() == 0) == (end is None), launch.text()
    assert_same_run(tmp_path, whole)


@pytest.fixture
def one_process(whole, tmp_path):
    """A copy of the run's folder, and the options to go on with it in one process."""
    for path in whole.glob('*.pth'):
        shutil.copy(path, tmp_path)
    return {'work_dir': tmp_path, 'resume': True, 'num_workers': 0}


def test_inside_an_epoch_another_number_of_processes_is_refused(one_process, tiny_data):
    name = str(one_process['work_dir'] / 'iter_42.pth')
    with pytest.raises(ValueError, match=r'\(world size\) is 1, but was 2 .* inside an epoch.* resume from .*epoch_'):
        train(tiny_data, batch_size=4, load_from=name, **one_process)


def test_between_epochs_another_number_of_processes_goes_on_with_the_same_total_batch(one_process, tiny_data):
    name = str(one_process['work_dir'] / 'epoch_2.pth')
    with pytest.raises(ValueError, match=r'the total batch size .* is 2, but was 4 when'):
        train(tiny_data, batch_size=2, load_from=name, **one_process)
    train(tiny_data, batch_size=4, load_from=name, **one_process)
    lines = history(one_process['work_dir'])
    assert list(lines) == list(range(2 * EPOCH, 4 * EPOCH))
