"""Ensembles in processes: killed and resumed, with any number of workers, the same bytes come out."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions.fusion import Fusion, match_sets, open_sets, run_ensemble
from mmoid.openimages.predictions.prediction_store import PredictionStore
from tests.official_files import LABEL_NAMES
from tests.openimages.predictions.prediction_cases import image_names, make_store, random_rows, rows_csv, rows_of

IMAGES = 300
DRIVER = """
import sys
from mmoid.openimages.predictions.fusion import Fusion, match_sets, run_ensemble
from mmoid.openimages.predictions.prediction_store import PredictionStore

if __name__ == '__main__':
    *paths, out = sys.argv[1:]
    sets = match_sets([PredictionStore(path) for path in paths])
    run_ensemble(sets, Fusion(), out, num_workers=2, images_per_shard=2)
"""


@pytest.fixture(scope='module')
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sets')
    rng = np.random.default_rng(0)
    return [make_store(folder / f'{m}', random_rows(rng, IMAGES, 60), image_names(IMAGES)) for m in range(2)]


@pytest.fixture(scope='module')
def whole(stores, tmp_path_factory):
    """What an uninterrupted run in one process writes."""
    out = tmp_path_factory.mktemp('whole') / 'out'
    run_ensemble(match_sets(stores), Fusion(), out, num_workers=1, images_per_shard=2)
    return contents(out)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_number_of_workers_and_the_size_of_shards_do_not_show(stores, whole, tmp_path):
    told = []
    run_ensemble(match_sets(stores), Fusion(), tmp_path / 'out', num_workers=2, images_per_shard=40,
                 progress=lambda *news: told.append(news))  # fmt: skip
    assert contents(tmp_path / 'out') == whole
    assert told[0] == ('fusing images', 0, IMAGES) and told[-1] == ('fusing images', IMAGES, IMAGES) and len(told) == 9
    assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_a_run_that_was_killed_goes_on_where_it_was(stores, whole, tmp_path):
    (tmp_path / 'driver.py').write_text(DRIVER)
    out, parts = tmp_path / 'out', tmp_path / 'out.parts'
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / 'driver.py'), *(str(store.path) for store in stores), str(out)],
        env={**os.environ, 'PYTHONPATH': str(Path(__file__).parents[3])},
        start_new_session=True,
    )
    wait_for(lambda: len(list(parts.glob('images-*'))) >= 5)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs(workers, timeout=20)[1] == [], 'workers end with their parent'
    done = len(list(parts.glob('images-*')))
    assert 5 <= done < IMAGES / 2 and not out.exists()

    sets = match_sets(stores)
    with pytest.raises(
        AnnotationError, match=r'out\.parts: holds shards of an ensemble with other fusion; .*--restart'
    ):
        run_ensemble(sets, Fusion(iou_threshold=0.6), out, images_per_shard=2)
    with pytest.raises(AnnotationError, match=r'with other sets; finish'):
        run_ensemble(match_sets([stores[0], stores[0]]), Fusion(), out, images_per_shard=2)
    told = []
    summary = run_ensemble(
        sets, Fusion(), out, num_workers=1, images_per_shard=2, progress=lambda *news: told.append(news)
    )
    assert summary.resumed == told[0][1] == 2 * done
    assert contents(out) == whole
    assert not parts.exists()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_restart_throws_the_shards_of_another_ensemble_away(stores, tmp_path):
    out = tmp_path / 'out'

    def stop_early(what, done, total):
        if done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_ensemble(match_sets(stores), Fusion(), out, num_workers=1, images_per_shard=50, progress=stop_early)
    other = Fusion(iou_threshold=0.7)
    summary = run_ensemble(match_sets(stores), other, out, num_workers=1, images_per_shard=50, restart=True)
    assert summary.resumed == 0
    run_ensemble(match_sets(stores), other, tmp_path / 'same', num_workers=1)
    assert contents(out) == contents(tmp_path / 'same')


def test_a_worker_that_is_killed_is_told_and_what_was_done_is_kept(stores, whole, tmp_path):
    def kill_one(what, done, total):
        if done == 20:
            workers = [child for child in psutil.Process().children() if 'spawn_main' in ' '.join(child.cmdline())]
            workers[0].kill()

    sets = match_sets(stores)
    with pytest.raises(
        AnnotationError, match=r'out\.parts: a worker was ended from outside.* the same command goes on'
    ):
        run_ensemble(sets, Fusion(), tmp_path / 'out', num_workers=2, images_per_shard=2, progress=kill_one)
    assert not (tmp_path / 'out').exists()
    summary = run_ensemble(sets, Fusion(), tmp_path / 'out', num_workers=1, images_per_shard=2)
    assert summary.resumed >= 20 and contents(tmp_path / 'out') == whole


def test_a_damaged_set_is_told_before_anything_is_done(stores, tmp_path):
    broken = make_store(tmp_path / 'broken', random_rows(np.random.default_rng(1), IMAGES), image_names(IMAGES))
    sets = match_sets([stores[0], broken])
    (tmp_path / 'broken' / 'images.arrow').write_bytes(b'half')
    with pytest.raises(AnnotationError, match=r'images\.arrow: is missing or damaged'):
        run_ensemble(sets, Fusion(), tmp_path / 'out')
    assert not list(tmp_path.glob('out*'))


def test_nothing_of_somebody_else_is_touched(stores, tmp_path):
    sets = match_sets(stores)
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'thesis.txt').write_text('years of work')
    with pytest.raises(FileExistsError, match='exists and was not written by mmoid'):
        run_ensemble(sets, Fusion(), tmp_path / 'out', overwrite=True)
    (tmp_path / 'new.parts').mkdir()
    (tmp_path / 'new.parts' / 'thesis.txt').write_text('years of work')
    with pytest.raises(AnnotationError, match='new.parts: is no folder of an ensemble'):
        run_ensemble(sets, Fusion(), tmp_path / 'new', restart=True)
    assert (tmp_path / 'new.parts' / 'thesis.txt').exists()


def test_no_images_and_no_detections_are_no_error(tmp_path):
    for ids in ([], ['a', 'b']):
        store = make_store(tmp_path / 'store', [], ids)
        summary = run_ensemble(match_sets([store, store]), Fusion(), tmp_path / 'out', overwrite=True)
        assert PredictionStore(tmp_path / 'out').image_ids() == ids and summary.detections_out == 0


def test_csv_files_become_sets_once(tmp_path):
    rows = random_rows(np.random.default_rng(0))
    (tmp_path / 'a.csv').write_text(rows_csv(rows))
    inputs, classes = tmp_path / 'inputs', [(name, name) for name in LABEL_NAMES]
    (store,) = open_sets([tmp_path / 'a.csv'], inputs, classes)
    assert rows_of(store) == rows and store.label_names == tuple(LABEL_NAMES)
    made = (store.path / 'metadata.json').stat().st_mtime_ns
    (again,) = open_sets([tmp_path / 'a.csv'], inputs, classes)
    assert again.path == store.path and (again.path / 'metadata.json').stat().st_mtime_ns == made
    (tmp_path / 'a.csv').write_text(rows_csv(rows[1:]))
    (changed,) = open_sets([tmp_path / 'a.csv'], inputs, classes)
    assert rows_of(changed) == rows[1:]
    assert open_sets([tmp_path / 'a.csv', store.path], inputs)[0].label_names != store.label_names
