"""make_mini_openimages as a user runs it."""

import os
import subprocess
import sys

import numpy as np
import pytest

from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.real_stores import train_sample
from tests.tool_runs import ROOT


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    """The real training sample: 3,102 images, 323 of 500 classes."""
    return train_sample(tmp_path_factory.mktemp('real') / 'sample')


def make_mini(*arguments):
    return subprocess.run(
        [sys.executable, 'tools/dataset_converters/make_mini_openimages.py', *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, 'COLUMNS': '140'},
    )


def test_the_tool_writes_two_stores_and_prints_deviations(store, tmp_path):
    done = make_mini(store, '--out', tmp_path / 'mini', '--train', 1000, '--validation', 300)
    assert done.returncode == 0, done.stderr
    train, validation = (AnnotationStore(tmp_path / 'mini' / name) for name in ('train', 'validation'))
    assert (train.num_images, validation.num_images) == (1000, 300)
    assert not set(train.image_ids()) & set(validation.image_ids())
    assert set(train.image_ids()) < set(AnnotationStore(store).image_ids())
    rows = [[cell.strip() for cell in line.strip('│').split('│')] for line in done.stdout.splitlines()]
    assert ['whole', '3,102', '0', '23,908', '323'] in rows
    present = np.count_nonzero(train.class_box_counts)
    assert ['train', '1,000', '0', f'{train.num_boxes:,}', f'{present}'] in rows
    (worst,) = (row for row in rows if row[0] == 'validation: images')
    label = train.class_names.index(worst[1])
    assert int(worst[3]) == validation.class_image_counts(False)[label]
    assert float(worst[4]) == pytest.approx(int(worst[3]) - float(worst[2]))
    assert 'Images of the rarest classes' in done.stdout

    refused = make_mini(store, '--out', tmp_path / 'mini', '--train', 10, '--validation', 0)
    assert refused.returncode == 1 and 'exists already; give --overwrite' in refused.stderr
    sizes = ('--train', 1000, '--validation', 0)
    other = make_mini(store, '--out', tmp_path / 'mini', *sizes, '--seed', 1, '--overwrite')
    assert other.returncode == 0, other.stderr
    assert AnnotationStore(tmp_path / 'mini' / 'train').image_ids() != train.image_ids()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((), 'error: sizes must be >= 0 with a sum of at most 3102 images, got [115000, 5000]'),
        (('--train', 0), 'error: --train must be at least 1, got 0'),
    ],
)
def test_invalid_options_end_in_one_line(store, tmp_path, arguments, message):
    done = make_mini(store, '--out', tmp_path / 'mini', *arguments)
    assert done.returncode == 1 and done.stderr.strip() == message
    assert not (tmp_path / 'mini').exists()


def test_a_store_is_not_replaced_by_a_part_of_itself(store, tmp_path):
    (tmp_path / 'train').symlink_to(store)
    done = make_mini(store, '--out', tmp_path, '--train', 10, '--validation', 3, '--overwrite')
    assert done.returncode == 1 and 'which is read; give another --out' in done.stderr
    assert AnnotationStore(store).num_images == 3102
