"""plan_sampling as a command."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmoid.openimages.sampling.coverage import ImageLists, plan_sampling
from mmoid.openimages.store.annotation_store import AnnotationStore

ROOT = Path(__file__).parents[2]


def tool(*arguments):
    command = [sys.executable, 'tools/analysis_tools/plan_sampling.py', *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize('count', [False, True])
def test_a_plan_is_printed_and_written_for_every_class(tiny_data, tmp_path, count):
    store = AnnotationStore(tiny_data / 'train')
    options = [
        '--balance',
        0,
        1,
        '--epochs',
        3,
        '--samples-per-epoch',
        20,
        *(['--count', '--seed', 4] if count else []),
    ]
    done = tool(store.path, *options, '--out', tmp_path)
    assert done.returncode == 0, done.stderr
    lists = ImageLists.of_store(store)
    plans = [plan_sampling(lists, balance, 3, 20, seed=4 if count else None) for balance in (0, 1)]
    with open(tmp_path / 'classes.csv') as stream:
        rows = list(csv.DictReader(stream))
    assert [row['label_name'] for row in rows] == [*store.label_names, *store.label_names]
    assert [int(row['images']) for row in rows] == [*store.class_image_counts(), *store.class_image_counts()]
    for name, of_plan in (
        ('draws_per_epoch', lambda plan: plan.one_epoch.draws),
        ('not_drawn_in_one_epoch', lambda plan: plan.one_epoch.neglected),
        ('seen_in_all_epochs', lambda plan: plan.all_epochs.seen),
        ('unseen_in_all_epochs', lambda plan: plan.all_epochs.unseen),
    ):
        assert [float(row[name]) for row in rows] == pytest.approx(np.concatenate(list(map(of_plan, plans))), rel=1e-5)
    assert f'{plans[1].all_epochs.images_unseen:.2%}' in done.stdout
    assert 'in the tail; 20 draws' in ' '.join(done.stdout.split())
    with Image.open(tmp_path / 'sampling.png') as image:
        assert image.size[0] > 1000


def test_a_wrong_option_is_reported_in_one_line(tiny_data):
    done = tool(tiny_data / 'train', '--balance', -2)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'error: balance (λ) must be a finite number >= 0, got -2.0' in done.stderr
