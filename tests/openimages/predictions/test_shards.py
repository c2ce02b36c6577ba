"""Shards of a long run: joined on disk in bounded memory; a killed run resumes."""

import json
import sys

import numpy as np
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions import shards as prediction_shards
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.predictions.shards import PredictionShards, join_run, open_shards
from tests.openimages.predictions.prediction_cases import NAMES, columns, contents, image_names, make_store, random_rows
from tests.tool_runs import run

IDS = image_names(7)


def begin(out, plan='a', num_images=7, images_per_shard=3, **options):
    sizes = dict(num_images=num_images, images_per_shard=images_per_shard)
    return open_shards(out, {'plan': plan}, run='a test run', **sizes, **options)


def rows(seed=0):
    return random_rows(np.random.default_rng(seed), 7)


def write(shards, *bounds, seed=0):
    for bound in bounds:
        ids = IDS[slice(*bound)]
        shards.write(bound, **columns([row for row in rows(seed) if row.image in ids], ids), **NAMES)


@pytest.mark.parametrize('seed', range(4))
def test_a_run_resumes_with_its_own_shards_and_joins_them_to_the_bytes_of_one_store(tmp_path, seed):
    out = tmp_path / 'out'
    shards = begin(out)
    assert shards.bounds == [(0, 3), (3, 6), (6, 7)] and shards.done() == []
    write(shards, (3, 6), seed=seed)
    again = begin(out, images_per_shard=5)
    assert again.bounds == shards.bounds and again.done() == [(3, 6)]
    with pytest.raises(AnnotationError, match='images-00000000-00000003: no such folder'):
        again.join(**NAMES, overwrite=False)
    write(join_run(out, 7, 'a test run'), (0, 3), (6, 7), seed=seed)
    assert shards.join(**NAMES, overwrite=False) == len(rows(seed))
    assert [path.name for path in tmp_path.iterdir()] == ['out']
    assert contents(out) == contents(make_store(tmp_path / 'whole', rows(seed), IDS).path)


JOIN = """
import resource, sys
import pyarrow as pa
from mmoid.openimages.predictions.shards import PredictionShards

pa.set_cpu_count(1)
pa.set_io_thread_count(1)
pa.array(['this imports pandas where it is installed'])
shards = PredictionShards(sys.argv[1], 160, 20)
shards.read(shards.bounds[0])  # starts Arrow's threads, whose stacks count
used = int(next(line for line in open('/proc/self/status') if line.startswith('VmData')).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (24 << 20),) * 2)
print(shards.join(['/m/a'], ['A'], overwrite=False))
"""


def test_joining_needs_little_memory(tmp_path):
    """Joins 80 MB in a process that may use 24 MB."""
    per_image, rng = 12_500, np.random.default_rng(0)
    shards = PredictionShards(tmp_path / 'joined', 160, 20)
    for first, last in shards.bounds:
        total = (last - first) * per_image
        shards.write(
            (first, last),
            image_ids=[f'{image}' for image in range(first, last)],
            detections_per_image=np.full(last - first, per_image),
            label=np.zeros(total, dtype=int),
            score=rng.random(total),
            box=rng.random((total, 4)),
            label_names=['/m/a'],
            class_names=['A'],
        )
    done = run(sys.executable, '-c', JOIN, tmp_path / 'joined', ARROW_DEFAULT_MEMORY_POOL='system')
    assert int(done.stdout) == len(PredictionStore(tmp_path / 'joined').label) == 2_000_000


def test_leftovers_of_killed_processes_do_not_matter(tmp_path, monkeypatch):
    out, parts = tmp_path / 'out', tmp_path / 'out.parts'
    parts.mkdir()
    (parts / '.writing-1.plan.json').write_text('{"pl')  # while the plan was written
    shards = begin(out)
    (parts / '.images-00000000-00000003.writing-1').mkdir()  # while a shard was written
    write(shards, *shards.bounds)
    (tmp_path / '.out.writing-1').mkdir()  # while shards were put together
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
    write(again, *again.bounds)
    again.join(**NAMES, overwrite=True)
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_other_runs_and_other_folders_are_left_alone(tmp_path):
    out = tmp_path / 'out'
    write(begin(out), (0, 3))
    for options, message in (
        (dict(plan='b'), r'out\.parts: has shards of a test run with a different plan; .*--restart'),
        (dict(num_images=8), 'with a different num images;'),
    ):
        with pytest.raises(AnnotationError, match=message):
            begin(out, **options)
    with pytest.raises(AnnotationError, match=r'out\.parts: not a folder of an ensemble; give another --out'):
        join_run(out, 7, 'an ensemble')
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
