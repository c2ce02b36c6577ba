"""concurrent_rates and report_openimages as commands."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from mmoid.openimages.predictions.prediction_store import PredictionStore, write_predictions
from mmoid.openimages.statistics.concurrent_rates import count_concurrence, load_rates
from mmoid.openimages.statistics.confusion import count_confusion
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.tool_runs import tool_path

ROOT = Path(__file__).parents[2]


def tool(name, *arguments):
    command = [sys.executable, str(tool_path(name)), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


def turned_predictions(store, path, **changed):
    """Every box found, under the label of the box after it."""
    columns = dict(
        image_ids=store.image_ids(),
        detections_per_image=np.diff(store.box_stop, prepend=0),
        label=np.roll(store.box_label, -1),
        score=np.full(store.num_boxes, 0.6),
        box=store.box,
        label_names=store.label_names,
        class_names=store.class_names,
    )
    write_predictions(path, **{**columns, **changed})
    return PredictionStore(path)


def test_rates_are_written_from_annotations(tiny_data, tmp_path):
    store = AnnotationStore(tiny_data / 'train')
    done = tool('concurrent_rates', store.path, '--out', tmp_path / 'a.npz', '--iou', 0.8, '--compare-iou', 0.9, 0.6)
    assert done.returncode == 0, done.stderr
    assert 'Boxes with different labels on one object' in done.stdout and 'IoU >= 0.8' in done.stdout
    rates, names = load_rates(tmp_path / 'a.npz')
    assert (rates == count_concurrence(store, 0.8).rates).all() and names == store.label_names


def test_classes_that_a_model_cannot_tell_apart_become_concurrent(tiny_data, tmp_path):
    store = AnnotationStore(tiny_data / 'train')
    predictions = turned_predictions(store, tmp_path / 'predictions')
    done = tool(
        'concurrent_rates', store.path, '--out', tmp_path / 'p.npz', '--predictions', predictions.path, '--least', 0.5
    )
    assert done.returncode == 0, done.stderr
    rates, annotated = load_rates(tmp_path / 'p.npz')[0], count_concurrence(store).rates
    related = store.hierarchy.ancestor_matrix | store.hierarchy.ancestor_matrix.T
    mixed = (count_confusion(store, predictions).interchangeability >= 0.5) & ~related
    assert mixed.any() and (rates == np.where(mixed, 1, annotated)).all()
    assert f'{mixed.sum() // 2} pairs of classes mixed up' in done.stdout


def test_a_report_is_written_and_its_headlines_printed(tiny_data, tmp_path):
    store = AnnotationStore(tiny_data / 'validation')
    predictions = turned_predictions(store, tmp_path / 'predictions')
    done = tool('report_openimages', store.path, '--out', tmp_path / 'report', '--predictions', predictions.path)
    assert done.returncode == 0, done.stderr
    assert 'objects with several labels' in done.stdout and 'index.html' in done.stdout
    assert (tmp_path / 'report' / 'index.html').exists() and (tmp_path / 'report' / 'confusion.png').exists()


def test_wrong_input_is_reported_in_one_line(tiny_data, tmp_path):
    (tmp_path / 'file').touch()
    store = AnnotationStore(tiny_data / 'validation')
    odd = turned_predictions(store, tmp_path / 'odd', image_ids=[f'x{i}' for i in range(store.num_images)])
    for name, out, options, message in (
        ('concurrent_rates', tmp_path / 'file' / 'rates.npz', (), 'error: '),
        ('concurrent_rates', tmp_path / 'rates.npz', ('--iou', '1.5'), 'must be in'),
        ('report_openimages', tmp_path / 'report', ('--predictions', odd.path), 'images predicted are not in'),
    ):
        done = tool(name, store.path, '--out', out, *options)
        assert done.returncode == 1 and not out.exists()
        assert 'error: ' in done.stderr and message in done.stderr and 'Traceback' not in done.stderr
