"""OpenImagesChallengeMetric: the official cases through the store and mmengine's metric interface, and real runs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import Runner

import mmoid
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.evaluator import Protocol, evaluate_predictions
from mmoid.openimages.predictions.csv_files import read_predictions
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.engine.machines import launches, on_one_machine
from tests.evaluation import prediction_run
from tests.official_files import write_files
from tests.openimages.metric.metric_cases import store_of_case
from tests.real_stores import METRIC_CASES, metric_case
from tests.tool_runs import logged_scalars


@pytest.fixture(scope='module', params=METRIC_CASES)
def case(request, tmp_path_factory):
    """The store of an official case, and its predictions in pixels, of a size that keeps every digit."""
    official = metric_case(request.param)
    store = store_of_case(official, tmp_path_factory.mktemp('case'), width=1024, height=512)
    found = read_predictions(official / 'predictions.csv', store.classes)
    samples = []
    for image_id in store.image_ids():
        rows = np.repeat(found.image_ids(), np.diff(found.detection_stop, prepend=0)) == image_id
        boxes = torch.from_numpy(found.box[rows] * [1024, 512, 1024, 512])
        samples.append(sample(image_id, boxes, found.label[rows], found.score[rows], (512, 1024)))
    return official, store, samples


def sample(image_id, boxes, labels, scores, shape=(100, 100)):
    labels, scores = torch.tensor(labels.tolist(), dtype=torch.long), torch.as_tensor(scores)
    instances = dict(bboxes=boxes, labels=labels, scores=scores)
    return dict(img_id=image_id, ori_shape=shape, pred_instances=instances)


def evaluate(store, samples, size=None, **kwargs):
    metric = mmoid.OpenImagesChallengeMetric(str(store.path), **kwargs)
    metric.dataset_meta = dict(classes=store.class_names, label_names=store.label_names)
    for start in range(0, len(samples), 7):
        metric.process({}, samples[start : start + 7])
    return metric.evaluate(size or len(samples))


@pytest.mark.parametrize('rules', [dict(), dict(expand_detections=True), dict(protocol='v2')])
def test_the_metric_gives_the_figures_of_evaluate_predictions(case, rules, tmp_path):
    folder, store, samples = case
    counts = np.random.default_rng(0).permutation(store.num_classes)
    lines = ''.join(f'{name},{count}\n' for name, count in zip(store.label_names, counts))
    (tmp_path / 'counts.csv').write_text(f'LabelName,images\n{lines}')
    prefix = str(tmp_path / 'val')
    scalars = evaluate(store, samples, train_ann_file=str(tmp_path / 'counts.csv'), outfile_prefix=prefix, **rules)
    result = evaluate_predictions(
        annotations_of_store(store),
        read_predictions(folder / 'predictions.csv', store.classes),
        Protocol(rules.get('protocol', 'challenge'), 'expand_detections' in rules),
        train_images=counts,
    )
    assert scalars == {f'openimages/{name}': value for name, value in result.scalars().items()}
    assert next(iter(scalars)) == 'openimages/mAP', "save_best='auto' takes the first"
    assert {'openimages/mAP_head', 'openimages/mAP_leaf', 'openimages/mAP_level1'} < set(scalars)
    ours, theirs = json.loads(open(f'{prefix}.json').read()), result.as_json()
    for one in (ours, theirs):  # files may have detections on other images
        del one['left_out'], one['num_detections']
    assert ours == theirs


def test_without_the_training_store_there_is_a_warning_and_no_map_of_groups(tiny_data, monkeypatch):
    store, said = AnnotationStore(tiny_data / 'validation'), []
    monkeypatch.setattr('mmoid.evaluation.challenge_metric.print_log', lambda text, **_: said.append(text))
    scalars = evaluate(store, perfect_samples(store), train_ann_file='nowhere/train')
    assert said[:1] == ['evaluator.train_ann_file = nowhere/train: does not exist; no mAP of classes by frequency']
    assert scalars['openimages/mAP'] > 0.99 and not [name for name in scalars if 'head' in name]


def test_an_image_that_two_ranks_tested_counts_once(case):
    _, store, samples = case
    assert evaluate(store, [*samples, *samples[:5]]) == evaluate(store, samples)


def perfect_samples(store):
    """Detections equal to the ground truth, expanded."""
    samples = []
    for i, image_id in enumerate(store.image_ids()):
        box, labels = (column[store.boxes_of_image(i)] for column in (store.box, store.box_label))
        rows, labels = store.hierarchy.expand_up(labels)
        samples.append(sample(image_id, torch.from_numpy(box[rows] * 100), labels, torch.rand(len(labels))))
    return samples


def test_perfect_detections_score_1_on_all_images_and_on_half_of_them(tiny_data):
    store = AnnotationStore(tiny_data / 'validation')
    assert evaluate(store, perfect_samples(store))['openimages/mAP'] == 1.0
    assert evaluate(store, perfect_samples(store)[::2])['openimages/mAP'] == 1.0


def test_a_model_with_fewer_classes_is_evaluated_on_these(tiny_data):
    store = AnnotationStore(tiny_data / 'validation')
    label = int(np.bincount(store.box_label).argmax())
    metric = mmoid.OpenImagesChallengeMetric(str(store.path))
    metric.dataset_meta = dict(classes=[store.class_names[label]], label_names=[store.label_names[label]])
    for found in perfect_samples(store):
        chosen = found['pred_instances']['labels'] == label
        found['pred_instances'] = {key: value[chosen] for key, value in found['pred_instances'].items()}
        found['pred_instances']['labels'][:] = 0
        metric.process({}, [found])
    assert metric.evaluate(store.num_images)['openimages/mAP'] == 1.0


def test_bad_options_and_stores_are_errors(tiny_data, tmp_path):
    path = str(tiny_data / 'validation')
    store = AnnotationStore(path)
    with pytest.raises(AnnotationError, match="has no image 'elsewhere'"):
        evaluate(store, [dict(perfect_samples(store)[0], img_id='elsewhere')])
    counts = tmp_path / 'counts.csv'
    counts.write_text('LabelName,images\n')
    names = dict(classes=store.class_names, label_names=store.label_names)
    for meta, options, message in (
        (dict(label_names=['/m/none']), {}, "label_names: '/m/none' is not a class of .*validation"),
        (dict(classes=['a', 'b']), {}, 'classes, the data set 2; give their MIDs .*label_names'),
        (names, dict(train_ann_file=str(counts)), r'is not a class of .*counts\.csv'),
    ):
        metric = mmoid.OpenImagesChallengeMetric(path, **options)
        with pytest.raises(AnnotationError, match=message):
            metric.dataset_meta = meta


def config(data_root, work_dir, **options):
    """One iteration of training of the detector of prediction_run, then validation; ``options`` override it."""
    cfg = prediction_run.config(data_root, work_dir)
    loader, (metric,), _ = (cfg.pop(name) for name in ('test_dataloader', 'test_evaluator', 'test_cfg'))
    validation = f'{data_root}/validation'
    cfg.model.ann_file = validation
    cfg.train_dataloader = dict(loader, dataset=dict(loader.dataset, test_mode=False, indices=2))
    # One image a batch, so that what is found does not depend on the rank; with two ranks, one of 11 is tested twice.
    cfg.val_dataloader = dict(loader, batch_size=1, dataset=dict(loader.dataset, ann_file=validation, indices=11))
    files = dict(train_ann_file=f'{data_root}/train', outfile_prefix=f'{work_dir}/val')
    cfg.val_evaluator = dict(metric, ann_file=validation, **files)
    cfg.train_cfg, cfg.val_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1), dict(type='ValLoop')
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
    cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook', save_best='auto'))
    cfg.merge_from_dict(dict(experiment_name='metric', launcher='none') | options)
    return cfg


def scalars_of(work_dir: Path) -> dict:
    (line,) = [line for line in logged_scalars(work_dir) if 'openimages/mAP' in line]
    return {name: value for name, value in line.items() if name.startswith('openimages/')}


@pytest.fixture(scope='module')
def one_process(tiny_data, tmp_path_factory) -> Path:
    work_dir = tmp_path_factory.mktemp('one')
    Runner.from_cfg(config(tiny_data, work_dir, custom_imports=None)).train()
    return work_dir


def test_a_run_logs_the_map_of_groups_and_writes_tables(one_process, tiny_data):
    scalars = scalars_of(one_process)
    figures = json.loads((one_process / 'val.json').read_text())
    assert 0 < scalars['openimages/mAP'] == figures['mAP'] < 0.9
    assert figures['num_images'] == 11
    groups = {name: group['mAP'] for name, group in figures['groups'].items() if group['mAP'] is not None}
    assert {'head', 'middle', 'tail', 'leaf', 'parent', 'level1', 'level2'} <= set(groups)
    assert {name: scalars[f'openimages/mAP_{name}'] for name in groups} == groups
    assert scalars['openimages/multi_label_recall'] == figures['multi_label_objects']['recall']
    assert len(set(groups.values())) > 3, 'equal groups would show nothing'
    assert (one_process / 'val.csv').read_text().count('\n') == 1 + figures['num_classes']
    assert (one_process / 'best_openimages_mAP_epoch_1.pth').exists()
    (log,) = one_process.glob('*/*.log')
    text = log.read_text()
    assert f'mAP {figures["mAP"]:.4f} ({figures["protocol"]})' in text
    assert f'{figures["groups"]["tail"]["meaning"]} ' in text and '| mAP tail' in text


def test_two_processes_log_the_same_as_one(one_process, tiny_data, tmp_path):
    config(tiny_data, tmp_path).dump(str(tmp_path / 'run.py'))
    with launches(on_one_machine(tmp_path / 'run.py')) as (run,):
        assert run.finish() == 0, run.text()
    assert scalars_of(tmp_path) == scalars_of(one_process)
    assert (tmp_path / 'val.json').read_text() == (one_process / 'val.json').read_text()


def test_a_set_without_boxes_logs_nan_and_saves_no_best_checkpoint(tiny_data, tmp_path):
    files = write_files(tmp_path / 'official', boxes='ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n')
    convert(tmp_path / 'empty', **files)
    empty = str(tmp_path / 'empty')
    options = {
        'model.ann_file': empty,
        'val_dataloader.dataset.ann_file': empty,
        'val_dataloader.dataset.indices': 2,
        'val_evaluator.ann_file': empty,
        'val_evaluator.train_ann_file': None,
        'experiment_name': 'nothing to evaluate',
        'custom_imports': None,
    }
    Runner.from_cfg(config(tiny_data, tmp_path / 'run', **options)).train()
    scalars = scalars_of(tmp_path / 'run')
    assert list(scalars) == ['openimages/mAP'] and math.isnan(scalars['openimages/mAP'])
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert f'evaluator.ann_file = {empty}: has no boxes, so mAP will be NaN' in log.read_text()
    assert (tmp_path / 'run' / 'epoch_1.pth').exists()
    assert not list((tmp_path / 'run').glob('best_*'))
    assert json.loads((tmp_path / 'run' / 'val.json').read_text())['mAP'] is None
