"""Shards of a long run: joined on disk in bounded memory; a killed run resumes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions import shards as prediction_shards
from mmoid.openimages.predictions.prediction_store import PredictionStore, join_predictions, write_predictions
from mmoid.openimages.predictions.shards import join_run, open_shards
from tests.official_files import LABEL_NAMES
from tests.openimages.predictions.prediction_cases import image_names, make_store, random_rows, rows_of

NAMES = dict(label_names=LABEL_NAMES, class_names=[name.removeprefix('/m/').title() for name in LABEL_NAMES])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize('seed', range(4))
def test_joined_parts_have_the_bytes_of_one_store(tmp_path, seed):
    rng = np.random.default_rng(seed)
    rows, ids = random_rows(rng, 20), image_names(20)
    cuts = [0, *sorted(rng.integers(0, 21, 5).tolist()), 20]  # some without images
    parts = []
    for k, (first, last) in enumerate(zip(cuts, cuts[1:])):
        own = [row for row in rows if row.image in ids[first:last]]
        parts.append(make_store(tmp_path / f'part{k}', own, ids[first:last]).path)
    whole = make_store(tmp_path / 'whole', rows, ids)
    assert join_predictions(tmp_path / 'joined', parts, **NAMES) == len(rows)
    assert contents(tmp_path / 'joined') == contents(whole.path)
    join_predictions(tmp_path / 'none', [], **NAMES)
    assert PredictionStore(tmp_path / 'none').num_images == 0


JOIN = """
import resource, sys
from pathlib import Path
import pyarrow as pa
from mmoid.openimages.predictions.prediction_store import PredictionStore, join_predictions

pa.set_cpu_count(1)
pa.set_io_thread_count(1)
pa.array(['this imports pandas where it is installed'])
parts = sorted(Path(sys.argv[1]).glob('part*'))
PredictionStore(parts[0])  # starts Arrow's threads, whose stacks count
used = int(next(line for line in open('/proc/self/status') if line.startswith('VmData')).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (24 << 20),) * 2)
print(join_predictions(Path(sys.argv[1]) / 'joined', parts, label_names=['/m/a'], class_names=['A']))
"""


def test_joining_needs_little_memory(tmp_path):
    """Joins 80 MB in a process that may use 24 MB."""
    each, per_image, rng = 20, 12_500, np.random.default_rng(0)
    for part in range(8):
        write_predictions(
            tmp_path / f'part{part}',
            image_ids=[f'{part}-{k}' for k in range(each)],
            detections_per_image=np.full(each, per_image),
            label=np.zeros(each * per_image, dtype=int),
            score=rng.random(each * per_image),
            box=rng.random((each * per_image, 4)),
            label_names=['/m/a'],
            class_names=['A'],
        )
    done = subprocess.run(
        [sys.executable, '-c', JOIN, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, 'ARROW_DEFAULT_MEMORY_POOL': 'system', 'PYTHONPATH': str(Path(__file__).parents[3])},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(PredictionStore(tmp_path / 'joined').label) == 2_000_000


def begin(out, plan='a', num_images=7, **options):
    return open_shards(out, {'plan': plan}, run='a test run', num_images=num_images, images_per_shard=3, **options)


def write(shards, bound):
    ids = image_names(7)[bound[0] : bound[1]]
    rows = [row for row in random_rows(np.random.default_rng(0), 7) if row.image in ids]
    columns = dict(
        image_ids=ids,
        detections_per_image=np.array([sum(row.image == name for row in rows) for name in ids]),
        label=np.array([row.label for row in rows], dtype=int),
        score=np.array([row.score for row in rows]),
        box=np.array([row.box for row in rows]).reshape(-1, 4),
    )
    shards.write(bound, **columns, **NAMES)


def test_a_run_resumes_with_its_own_shards_and_joins_them(tmp_path):
    out = tmp_path / 'out'
    shards = begin(out)
    assert shards.bounds == [(0, 3), (3, 6), (6, 7)] and shards.done() == []
    write(shards, (3, 6))
    again = open_shards(out, {'plan': 'a'}, run='a test run', num_images=7, images_per_shard=5)
    assert again.bounds == shards.bounds and again.done() == [(3, 6)]
    with pytest.raises(AnnotationError, match=r'images-00000000-00000003: 2 shards are missing'):
        again.join(**NAMES, overwrite=False)
    other = join_run(out, 7, 'a test run')
    for bound in ((0, 3), (6, 7)):
        write(other, bound)
    assert shards.join(**NAMES, overwrite=False) == len(random_rows(np.random.default_rng(0), 7))
    assert rows_of(PredictionStore(out)) == random_rows(np.random.default_rng(0), 7)
    assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_writing_a_shard_does_not_list_the_others(tmp_path, monkeypatch):
    """There may be tens of thousands. Listing them would take longer than writing one."""
    shards = begin(tmp_path / 'out')

    def listed(*_):
        raise AssertionError('the folder was listed')

    with monkeypatch.context() as patch:
        patch.setattr('mmoid.openimages.store.arrow_folder.remove_abandoned', listed)
        write(shards, shards.bounds[0])
    assert shards.done() == shards.bounds[:1]


def test_leftovers_of_killed_processes_do_not_matter(tmp_path, monkeypatch):
    out, parts = tmp_path / 'out', tmp_path / 'out.parts'
    parts.mkdir()
    (parts / '.writing-1.plan.json').write_text('{"pl')  # while the plan was written
    shards = begin(out)
    (parts / '.images-00000000-00000003.writing-1').mkdir()  # while a shard was written
    for bound in shards.bounds:
        write(shards, bound)
    (parts / '.out.writing-1').mkdir()  # while shards were put together
    remove = prediction_shards.shutil.rmtree

    def dies(path, **options):
        if path == parts:
            raise KeyboardInterrupt
        remove(path, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # while they were removed
        patch.setattr(prediction_shards.shutil, 'rmtree', dies)
        shards.join(**NAMES, overwrite=False)
    before = contents(out)
    again = begin(out, overwrite=True)
    assert again.done() == []
    for bound in shards.bounds:
        write(again, bound)
    again.join(**NAMES, overwrite=True)
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_other_runs_and_other_folders_are_left_alone(tmp_path):
    out = tmp_path / 'out'
    write(begin(out), (0, 3))
    with pytest.raises(
        AnnotationError, match=r'out\.parts: has shards of a test run with a different plan; .*--restart'
    ):
        begin(out, plan='b')
    with pytest.raises(AnnotationError, match='with a different num images;'):
        begin(out, num_images=8)
    with pytest.raises(AnnotationError, match=r'out\.parts: not a folder of an ensemble; give another --out'):
        open_shards(out, {}, run='an ensemble', num_images=7, images_per_shard=3)
    assert begin(out).done() == [(0, 3)]
    assert begin(out, plan='b', restart=True).done() == []
    for text in ('{"pl', '[]'):
        (tmp_path / 'out.parts' / 'plan.json').write_text(text)
        with pytest.raises(AnnotationError, match='not a folder of a test run'):
            begin(out)
    make_store(out, [], ['a'])
    with pytest.raises(FileExistsError, match='exists already; give --overwrite'):
        begin(out)
    assert json.loads((out / 'metadata.json').read_text())['format'] == 'mmoid-predictions'
