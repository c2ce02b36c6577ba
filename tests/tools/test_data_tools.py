import csv

import numpy as np
import pytest
from PIL import Image

from mmoid.openimages.predictions.prediction_store import Detections
from mmoid.openimages.sampling.coverage import ImageLists, plan_sampling
from mmoid.openimages.statistics.concurrent_rates import count_concurrence, load_rates
from mmoid.openimages.statistics.confusion import count_confusion
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.progress import print_table
from tests.box_stores import make_store
from tests.openimages.predictions.prediction_cases import write_for
from tests.real_stores import sample
from tests.tool_runs import tool

CONFIG = (
    'configs/hybrid/faster-rcnn_x152-32x4d_fpn_syncbn-scratch_concurrent-softmax_16xb2-hybrid-20e-7e_'
    'openimages-challenge.py'
)


def turned_predictions(store, path):
    """Every box found, under the label of the box after it."""
    columns = (store.image_of_box(), np.roll(store.box_label, -1), np.full(store.num_boxes, 0.6), store.box)
    return write_for(store, path, Detections(*columns))


def refused(name, *arguments):
    """What a tool prints as its one line of error."""
    done = tool(name, *arguments, check=False)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    return done.stderr.splitlines()[-1]


def test_classes_that_a_model_cannot_tell_apart_become_concurrent(tiny_data, tmp_path):
    store = AnnotationStore(tiny_data / 'train')
    predictions = turned_predictions(store, tmp_path / 'predictions')
    done = tool(
        'concurrent_rates',
        *(store.path, '--out', tmp_path / 'p.npz', '--iou', 0.8, '--compare-iou', 0.9, 0.6),
        *('--predictions', predictions.path, '--least', 0.5),
    )
    assert 'Boxes with different labels on one object' in done.stdout and 'IoU >= 0.8' in done.stdout
    rates, names = load_rates(tmp_path / 'p.npz')
    related = store.hierarchy.ancestor_matrix | store.hierarchy.ancestor_matrix.T
    mixed = (count_confusion(store, predictions).interchangeability >= 0.5) & ~related
    assert names == store.label_names
    assert mixed.any() and (rates == np.where(mixed, 1, count_concurrence(store, 0.8).rates.toarray())).all()
    assert f'{mixed.sum() // 2} pairs of classes mixed up' in done.stdout


def test_a_report_is_written_and_its_headlines_printed(tiny_data, tmp_path):
    store = AnnotationStore(tiny_data / 'validation')
    predictions = turned_predictions(store, tmp_path / 'predictions')
    done = tool('report_openimages', store.path, '--out', tmp_path / 'report', '--predictions', predictions.path)
    assert 'objects with several labels' in done.stdout and 'index.html' in done.stdout
    assert (tmp_path / 'report' / 'index.html').exists() and (tmp_path / 'report' / 'confusion.png').exists()


def test_what_was_computed_is_printed_before_an_output_that_cannot_be_written(tiny_data, tmp_path):
    (tmp_path / 'file').touch()
    for name, out, printed in (
        ('concurrent_rates', 'rates.npz', 'Boxes with different labels on one object'),
        ('report_openimages', 'report', 'objects with several labels'),
        ('plan_sampling', 'plan', 'Never seen'),
    ):
        done = tool(name, tiny_data / 'validation', '--out', tmp_path / 'file' / out, check=False)
        assert done.returncode == 1 and printed in done.stdout
        assert done.stderr.startswith('error: ') and len(done.stderr.splitlines()) == 1


def test_class_names_in_brackets_are_printed_as_they_are(capsys):
    print_table([['[/x] :apple:']], 'class', title='[bold]')
    assert '[/x] :apple:' in capsys.readouterr().out


def test_a_store_without_boxes_has_no_rates_and_no_report(tmp_path):
    store = make_store(tmp_path, [])
    for name in ('concurrent_rates', 'report_openimages'):
        assert f'error: {store.path}: has no boxes' in refused(name, store.path, '--out', tmp_path / 'out')


def test_a_plan_is_printed_and_written_for_every_class(tiny_data, tmp_path):
    store = AnnotationStore(tiny_data / 'train')
    options = ('--balance', 0, 1, '--epochs', 3, '--samples-per-epoch', 20, '--count', '--seed', 4)
    done = tool('plan_sampling', store.path, *options, '--out', tmp_path)
    plans = [plan_sampling(ImageLists.of_store(store), balance, 3, 20, seed=4) for balance in (0, 1)]
    with open(tmp_path / 'classes.csv') as stream:
        rows = list(csv.DictReader(stream))
    assert [row['label_name'] for row in rows] == [*store.label_names, *store.label_names]
    unseen = np.concatenate([plan.all_epochs.unseen for plan in plans])
    assert [float(row['unseen_in_all_epochs']) for row in rows] == pytest.approx(unseen, rel=1e-5)
    assert f'{plans[1].all_epochs.images_unseen:.2%}' in done.stdout
    assert 'in the tail; 20 draws' in done.stdout
    with Image.open(tmp_path / 'sampling.png') as image:
        assert image.size[0] > 1000


def test_a_mini_set_is_written_as_two_stores_and_its_deviations_printed(tmp_path):
    real_store = sample(tmp_path / 'sample')
    make = ('make_mini_openimages', real_store, '--out', tmp_path / 'mini')
    done = tool(*make, '--train', 1000, '--validation', 300, COLUMNS='140')
    train, validation = (AnnotationStore(tmp_path / 'mini' / name) for name in ('train', 'validation'))
    assert (train.num_images, validation.num_images) == (1000, 300)
    assert not set(train.image_ids()) & set(validation.image_ids())
    assert set(train.image_ids()) < set(AnnotationStore(real_store).image_ids())
    rows = [[cell.strip() for cell in line.strip('│').split('│')] for line in done.stdout.splitlines()]
    assert ['whole', '3,102', '0', '23,908', '323'] in rows
    present = np.count_nonzero(train.class_box_counts)
    assert ['train', '1,000', '0', f'{train.num_boxes:,}', f'{present}'] in rows
    (worst,) = (row for row in rows if row[0] == 'validation: images')
    label = train.class_names.index(worst[1])
    assert int(worst[3]) == validation.class_image_counts(False)[label]
    assert float(worst[4]) == pytest.approx(int(worst[3]) - float(worst[2]))

    assert 'exists already; give --overwrite' in refused(*make, '--train', 10, '--validation', 0)
    tool(*make, '--train', 1000, '--validation', 0, '--seed', 1, '--overwrite')
    assert AnnotationStore(tmp_path / 'mini' / 'train').image_ids() != train.image_ids()


def test_stages_samplers_and_rates_are_told_in_full_at_any_width():
    done = tool('plan_training', CONFIG, '--gpus', 16, '--images', 1_674_979)
    assert 'natural: 20 epochs of DefaultSampler, shuffle True' in done.stdout
    assert 'soft balance: 7 epochs of SoftBalanceClassAwareSampler, balance 0.7' in done.stdout
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in done.stdout.splitlines() if '│' in line]
    assert rows[4:] == [
        ['soft balance', '20 - 24', '1,046,880 - 1,256,256', '0.04'],
        ['', '24 - 26', '1,256,256 - 1,360,944', '0.004'],
        ['', '26 - 27', '1,360,944 - 1,413,288', '0.0004'],
    ]
    assert rows[0][:2] == ['natural', '0 - 0.01909'] and rows[0][3] == '4e-05 to 0.03996', 'the warm-up'
    assert '52,344 iterations of 32 images an epoch, 1,413,288 in all.' in done.stdout
