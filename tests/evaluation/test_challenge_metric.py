"""OpenImagesChallengeMetric: the official cases through the store and mmengine's metric interface."""

import csv
import json
import logging

import numpy as np
import pytest
import torch

import mmoid
from mmoid.openimages.convert import convert
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions import PredictionStore
from mmoid.openimages.store import AnnotationStore
from tests.shared_data import SHARED

CASES = sorted((SHARED / 'metric-cases').glob('case_*'))
needs_cases = pytest.mark.skipif(not CASES, reason=f'needs {SHARED / "metric-cases"}')


@pytest.fixture(scope='module', params=CASES, ids=lambda case: case.name)
def case(request, tmp_path_factory):
    """The store of an official case, and its predictions in pixels, of a size that keeps every digit."""
    folder = tmp_path_factory.mktemp('case')
    with open(request.param / 'predictions.csv') as stream:
        predictions = list(csv.DictReader(stream))
    ids = set()
    for name in ('boxes', 'labels'):
        with open(request.param / f'{name}.csv') as stream:
            ids |= {row['ImageID'] for row in csv.DictReader(stream)}
    (folder / 'sizes.csv').write_text('image_id,width,height\n' + ''.join(f'{i},1024,512\n' for i in sorted(ids)))
    convert(
        folder / 'store',
        boxes=request.param / 'boxes.csv',
        image_labels=request.param / 'labels.csv',
        classes=request.param / 'classes.csv',
        hierarchy=request.param / 'hierarchy.json',
        image_sizes=folder / 'sizes.csv',
    )
    store = AnnotationStore(folder / 'store')
    samples = []
    for image_id in store.image_ids():
        rows = [row for row in predictions if row['ImageID'] == image_id]
        corners = [[float(row[key]) for key in ('XMin', 'YMin', 'XMax', 'YMax')] for row in rows]
        samples.append(dict(
            img_id=image_id,
            ori_shape=(512, 1024),
            pred_instances=dict(
                bboxes=torch.tensor(corners, dtype=torch.float64).reshape(-1, 4) * torch.tensor([1024, 512, 1024, 512]),
                labels=torch.tensor([store.label_names.index(row['LabelName']) for row in rows], dtype=torch.long),
                scores=torch.tensor([float(row['Score']) for row in rows], dtype=torch.float64),
            ),
        ))  # fmt: skip
    return request.param, store, samples


def evaluate(store, samples, size=None, **kwargs):
    metric = mmoid.OpenImagesChallengeMetric(str(store.path), **kwargs)
    metric.dataset_meta = dict(classes=store.class_names, label_names=store.label_names)
    for start in range(0, len(samples), 7):
        metric.process({}, samples[start : start + 7])
    return metric.evaluate(size or len(samples))


@needs_cases
@pytest.mark.parametrize(
    ('protocol', 'expected'), [('challenge', 'expected_challenge.json'), ('v2', 'expected_v2_unexpanded.json')]
)
def test_map_is_the_official_one(case, protocol, expected):
    folder, store, samples = case
    official = json.loads((folder / expected).read_text())
    assert evaluate(store, samples, protocol=protocol)['openimages/mAP'] == pytest.approx(official['mAP'], abs=1e-9)


@needs_cases
def test_an_image_that_two_ranks_saw_counts_once(case):
    _, store, samples = case
    assert evaluate(store, [*samples, *samples[:5]]) == evaluate(store, samples)


def test_the_protocol_stands_beside_the_number(tiny_data, caplog):
    store = AnnotationStore(tiny_data / 'validation')
    metric = mmoid.OpenImagesChallengeMetric(str(store.path))
    metric.dataset_meta = dict(classes=store.class_names, label_names=store.label_names)
    assert metric.describe(12, 5) == (
        'Open Images Challenge metric, ground truth expanded, with image-level labels, group-of weight 1, '
        f'detections as predicted, IoU 0.5, 12 images, 5 of {store.num_classes} classes'
    )


def perfect_samples(store):
    """Every expanded ground-truth box, found."""
    samples = []
    for i, image_id in enumerate(store.image_ids()):
        rows, labels = store.hierarchy.expand_up(store.box_label[store.boxes_of_image(i)])
        box = store.box[store.boxes_of_image(i)][rows] * 100
        samples.append(dict(
            img_id=image_id, sample_idx=i, ori_shape=(100, 100),
            pred_instances=dict(bboxes=torch.from_numpy(box), labels=torch.from_numpy(labels),
                                scores=torch.rand(len(labels))),
        ))  # fmt: skip
    return samples


def test_perfect_detections_score_1_and_half_of_the_images_are_judged_by_themselves(tiny_data):
    store = AnnotationStore(tiny_data / 'validation')
    samples = perfect_samples(store)
    assert evaluate(store, samples)['openimages/mAP'] == 1.0
    assert evaluate(store, samples[::2])['openimages/mAP'] == 1.0


def test_detections_are_expanded_only_on_request(tiny_data):
    store = AnnotationStore(tiny_data / 'validation')
    samples = perfect_samples(store)
    for i, sample in enumerate(samples):
        rows = store.boxes_of_image(i)
        sample['pred_instances'] = dict(
            bboxes=torch.from_numpy(store.box[rows] * 100),
            labels=torch.from_numpy(store.box_label[rows].astype(np.int64)),
            scores=torch.ones(rows.stop - rows.start),
        )
    assert evaluate(store, samples)['openimages/mAP'] < 1
    assert evaluate(store, samples, expand_detections=True)['openimages/mAP'] > 0.99


def test_a_model_of_fewer_classes_is_judged_on_these(tiny_data):
    store = AnnotationStore(tiny_data / 'validation')
    label = int(np.bincount(store.box_label).argmax())
    metric = mmoid.OpenImagesChallengeMetric(str(store.path))
    metric.dataset_meta = dict(classes=[store.class_names[label]], label_names=[store.label_names[label]])
    for sample in perfect_samples(store):
        keep = sample['pred_instances']['labels'] == label
        chosen = {key: value[keep] for key, value in sample['pred_instances'].items()}
        chosen['labels'] = torch.zeros_like(chosen['labels'])
        metric.process({}, [dict(sample, pred_instances=chosen)])
    assert metric.evaluate(store.num_images)['openimages/mAP'] == 1.0


def test_errors_name_what_is_wrong(tiny_data, tmp_path):
    path = str(tiny_data / 'validation')
    with pytest.raises(AnnotationError, match='no such folder'):
        mmoid.OpenImagesChallengeMetric(str(tmp_path / 'nowhere'))
    with pytest.raises(ValueError, match=r"evaluator\.protocol must be one of challenge, v2, got 'coco'"):
        mmoid.OpenImagesChallengeMetric(path, protocol='coco')
    store = AnnotationStore(path)
    (sample, *_) = perfect_samples(store)
    with pytest.raises(AnnotationError, match="has no image 'elsewhere'"):
        evaluate(store, [dict(sample, img_id='elsewhere')])
    metric = mmoid.OpenImagesChallengeMetric(path)
    metric.dataset_meta = dict(label_names=['/m/none'])
    with pytest.raises(AnnotationError, match="does not have the class '/m/none'"):
        metric.process({}, [sample])


def test_predictions_are_written_and_read_back(tiny_data, tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    store = AnnotationStore(tiny_data / 'validation')
    samples = perfect_samples(store)
    dump = mmoid.PredictionDump(str(tmp_path / 'predictions'))
    dump.dataset_meta = dict(classes=store.class_names, label_names=store.label_names)
    dump.process({}, [*samples, samples[0]])
    dump.evaluate(len(samples) + 1)
    read = PredictionStore(tmp_path / 'predictions')
    assert read.image_ids() == store.image_ids()
    assert read.label_names == store.label_names and read.class_names == store.class_names
    assert read.label.tolist() == [i for sample in samples for i in sample['pred_instances']['labels'].tolist()]
    boxes = np.concatenate([sample['pred_instances']['bboxes'].numpy() for sample in samples]) / 100
    assert np.allclose(read.box, boxes, rtol=0, atol=1e-12)
    assert np.bincount(read.image_of_detection(), minlength=store.num_images).tolist() == [
        len(sample['pred_instances']['labels']) for sample in samples
    ]
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('years of work')
    with pytest.raises(AnnotationError, match='was not written by mmoid'):
        mmoid.PredictionDump(str(tmp_path / 'mine'))
