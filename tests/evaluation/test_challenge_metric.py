"""OpenImagesChallengeMetric: the official cases through the store and mmengine's metric interface."""

import csv
import json

import numpy as np
import pytest
import torch

import mmoid
from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.evaluator import Protocol, evaluate_predictions
from mmoid.openimages.predictions.csv_files import read_predictions
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.openimages.metric.test_evaluator import assert_official
from tests.shared_data import METRIC_CASES, metric_case


@pytest.fixture(scope='module', params=METRIC_CASES)
def case(request, tmp_path_factory):
    """The store of an official case, and its predictions in pixels, of a size that keeps every digit."""
    official, folder = metric_case(request.param), tmp_path_factory.mktemp('case')
    with open(official / 'predictions.csv') as stream:
        predictions = list(csv.DictReader(stream))
    ids = set()
    for name in ('boxes', 'labels'):
        with open(official / f'{name}.csv') as stream:
            ids |= {row['ImageID'] for row in csv.DictReader(stream)}
    (folder / 'sizes.csv').write_text('image_id,width,height\n' + ''.join(f'{i},1024,512\n' for i in sorted(ids)))
    convert(
        folder / 'store',
        boxes=official / 'boxes.csv',
        image_labels=official / 'labels.csv',
        classes=official / 'classes.csv',
        hierarchy=official / 'hierarchy.json',
        image_sizes=folder / 'sizes.csv',
    )
    store = AnnotationStore(folder / 'store')
    samples = []
    for image_id in store.image_ids():
        rows = [row for row in predictions if row['ImageID'] == image_id]
        corners = [[float(row[key]) for key in ('XMin', 'YMin', 'XMax', 'YMax')] for row in rows]
        instances = dict(
            bboxes=torch.tensor(corners, dtype=torch.float64).reshape(-1, 4) * torch.tensor([1024, 512, 1024, 512]),
            labels=torch.tensor([store.label_names.index(row['LabelName']) for row in rows], dtype=torch.long),
            scores=torch.tensor([float(row['Score']) for row in rows], dtype=torch.float64),
        )
        samples.append(dict(img_id=image_id, ori_shape=(512, 1024), pred_instances=instances))
    return official, store, samples


def evaluate(store, samples, size=None, **kwargs):
    metric = mmoid.OpenImagesChallengeMetric(str(store.path), **kwargs)
    metric.dataset_meta = dict(classes=store.class_names, label_names=store.label_names)
    for start in range(0, len(samples), 7):
        metric.process({}, samples[start : start + 7])
    return metric.evaluate(size or len(samples))


@pytest.mark.parametrize('protocol', ['challenge', 'v2_unexpanded'])
def test_the_figures_are_the_official_ones(case, protocol, tmp_path):
    folder, store, samples = case
    prefix = str(tmp_path / 'run' / 'val')
    evaluate(store, samples, protocol=protocol.removesuffix('_unexpanded'), outfile_prefix=prefix)
    figures = json.loads((tmp_path / 'run' / 'val.json').read_text())
    assert_official(figures, folder, protocol)
    with open(tmp_path / 'run' / 'val.csv', newline='') as stream:
        table = {row['LabelName']: row['AP'] for row in csv.DictReader(stream)}
    assert {name: float(ap) if ap else None for name, ap in table.items()} == figures['AP']


@pytest.mark.parametrize('expand', [False, True])
def test_the_metric_gives_the_figures_of_evaluate_predictions(case, expand, tmp_path):
    folder, store, samples = case
    counts = np.random.default_rng(0).permutation(store.num_classes)
    lines = ''.join(f'{name},{count}\n' for name, count in zip(store.label_names, counts))
    (tmp_path / 'counts.csv').write_text(f'LabelName,images\n{lines}')
    prefix = str(tmp_path / 'val')
    scalars = evaluate(
        store, samples, expand_detections=expand, train_ann_file=str(tmp_path / 'counts.csv'), outfile_prefix=prefix
    )
    result = evaluate_predictions(
        annotations_of_store(store),
        read_predictions(folder / 'predictions.csv', ClassNames(store.label_names)),
        Protocol(expand_detections=expand),
        train_images=counts,
    )
    assert scalars == {f'openimages/{name}': value for name, value in result.scalars().items()}
    assert next(iter(scalars)) == 'openimages/mAP', "save_best='auto' takes the first"
    assert {'openimages/mAP_head', 'openimages/mAP_leaf', 'openimages/mAP_level1'} < set(scalars)
    ours, theirs = json.loads(open(f'{prefix}.json').read()), result.as_json()
    for one in (ours, theirs):  # files may have detections on other images
        del one['left_out'], one['num_detections']
    assert ours == theirs


def test_an_image_that_two_ranks_tested_counts_once(case):
    _, store, samples = case
    assert evaluate(store, [*samples, *samples[:5]]) == evaluate(store, samples)


def perfect_samples(store):
    """Detections equal to the expanded ground truth."""
    samples = []
    for i, image_id in enumerate(store.image_ids()):
        rows, labels = store.hierarchy.expand_up(store.box_label[store.boxes_of_image(i)])
        box = store.box[store.boxes_of_image(i)][rows] * 100
        scores = torch.rand(len(labels))
        instances = dict(bboxes=torch.from_numpy(box), labels=torch.from_numpy(labels), scores=scores)
        samples.append(dict(img_id=image_id, ori_shape=(100, 100), pred_instances=instances))
    return samples


def test_perfect_detections_score_1_on_all_images_and_on_half_of_them(tiny_data):
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


def test_a_model_with_fewer_classes_is_evaluated_on_these(tiny_data):
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


def test_bad_options_and_stores_are_errors(tiny_data, tmp_path):
    path = str(tiny_data / 'validation')
    with pytest.raises(AnnotationError, match='no such folder'):
        mmoid.OpenImagesChallengeMetric(str(tmp_path / 'nowhere'))
    with pytest.raises(ValueError, match=r"protocol must be one of challenge, v2, got 'coco'"):
        mmoid.OpenImagesChallengeMetric(path, protocol='coco')
    store = AnnotationStore(path)
    (sample, *_) = perfect_samples(store)
    with pytest.raises(AnnotationError, match="has no image 'elsewhere'"):
        evaluate(store, [dict(sample, img_id='elsewhere')])
    metric = mmoid.OpenImagesChallengeMetric(path)
    with pytest.raises(AnnotationError, match="label_names: '/m/none' is not a class of .*validation"):
        metric.dataset_meta = dict(label_names=['/m/none'])
    with pytest.raises(AnnotationError, match='classes, the data set 2; give their MIDs .*label_names'):
        metric.dataset_meta = dict(classes=['a', 'b'])
    with pytest.raises(ValueError, match=r'iou_threshold must be in \(0, 1\], got 0'):
        mmoid.OpenImagesChallengeMetric(path, iou_threshold=0)
    counts = tmp_path / 'counts.csv'
    counts.write_text('LabelName,images\n')
    metric = mmoid.OpenImagesChallengeMetric(path, train_ann_file=str(counts))
    with pytest.raises(AnnotationError, match=r'is not a class of .*counts\.csv'):
        metric.dataset_meta = dict(classes=store.class_names, label_names=store.label_names)
