"""What an ensemble is for: three models together beat the best of them, by the official metric."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.evaluator import evaluate_predictions
from mmoid.openimages.predictions.ensemble import match_sets, run_ensemble
from mmoid.openimages.predictions.fusion import METHODS, Fusion
from mmoid.openimages.predictions.prediction_store import PredictionStore, write_predictions
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.tool_runs import tool_path

ROOT = Path(__file__).parents[2]
CONFIG = 'configs/openimages/faster-rcnn_r18-small_fpn_2xb4-hybrid-3e-2e_openimages.py'
WORLD = ('--num-train', 1200, '--num-classes', 24, '--imbalance', 100, '--confusable-pairs', 2)  # the quickstart's


def write_model(folder, store, seed, found=0.7, jitter=0.12, false_per_image=12):
    """A model with errors of its own: boxes missed or displaced, unsure scores, detections where nothing is."""
    rng = np.random.default_rng(seed)
    columns = []
    for image in range(store.num_images):
        rows = store.boxes_of_image(image)
        source, label = store.hierarchy.expand_up(store.box_label[rows])
        box = store.box[rows][source]
        seen = rng.random(len(box)) < found
        label, box = label[seen], box[seen]
        size = np.tile(box[:, 2:] - box[:, :2], 2)
        box = box + rng.normal(0, jitter, box.shape) * size
        low = rng.uniform(0, 0.7, (false_per_image, 2))
        box = np.concatenate([box, np.concatenate([low, low + rng.uniform(0.1, 0.3, low.shape)], axis=1)])
        label = np.concatenate([label, rng.integers(0, store.num_classes, false_per_image)])
        score = np.concatenate([rng.beta(4, 2, seen.sum()), rng.beta(2, 4, false_per_image)])
        order = np.argsort(-score)
        columns.append((label[order], score[order], box[order]))
    label, score, box = (np.concatenate(column) for column in zip(*columns))
    write_predictions(
        folder,
        image_ids=store.image_ids(),
        detections_per_image=np.array([len(column[0]) for column in columns]),
        label=label,
        score=score,
        box=box,
        label_names=store.label_names,
        class_names=store.class_names,
    )
    return PredictionStore(folder)


def test_three_models_with_errors_of_their_own_are_better_together(tiny_data, tmp_path):
    store = AnnotationStore(tiny_data / 'train')
    annotations = annotations_of_store(store)
    models = [write_model(tmp_path / f'{seed}', store, seed) for seed in range(3)]
    alone = [evaluate_predictions(annotations, model).mean_ap for model in models]
    together = {}
    for method in METHODS:
        run_ensemble(match_sets(models), Fusion(method=method), tmp_path / method, num_workers=1)
        together[method] = evaluate_predictions(annotations, PredictionStore(tmp_path / method)).mean_ap
    print(alone, together)
    assert 0.2 < max(alone) < 0.8
    assert all(value > max(alone) + 0.02 for value in together.values()), (alone, together)


def run(*command, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, 'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}', **environment},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def tool(name, *arguments, **environment):
    run(sys.executable, str(tool_path(name)), *arguments, **environment)


@pytest.mark.slow
def test_three_trained_models_are_better_together(tmp_path):
    """Three quickstarts, which differ in their seed; half an hour on two cores."""
    data, annotations = tmp_path / 'data', tmp_path / 'data' / 'annotations'
    tool('make_synthetic_openimages', '--out', data, *WORLD)
    for split in ('train', 'validation'):
        tool(
            'prepare_openimages', '--out', data / split, '--images', data / 'images' / split,
            '--boxes', annotations / f'{split}-detection-bbox.csv',
            '--labels', annotations / f'{split}-detection-human-imagelabels.csv',
            '--classes', annotations / 'classes-description.csv', '--hierarchy', annotations / 'label-hierarchy.json',
        )  # fmt: skip
    tool('concurrent_rates', data / 'train', '--out', data / 'concurrent_rates.npz')
    classes = AnnotationStore(data / 'train').num_classes
    environment = dict(MMOID_DATA_ROOT=str(data), MMOID_NUM_CLASSES=str(classes))

    def map_of(predictions):
        out = predictions.with_suffix('.json')
        tool('evaluate_predictions', '--store', data / 'validation', '--predictions', predictions, '--out', out)
        return json.loads(out.read_text())['mAP']

    models = []
    for seed in range(3):
        work_dir = tmp_path / f'seed{seed}'
        options = ('--cfg-options', f'randomness.seed={seed}')
        run('bash', 'tools/dist_train.sh', CONFIG, 2, '--work-dir', work_dir, *options, **environment)
        test = (CONFIG, work_dir / 'epoch_5.pth', 2, '--work-dir', work_dir / 'test', '--out', work_dir / 'predictions')
        run('bash', 'tools/dist_test.sh', *test, **environment)
        models.append(work_dir / 'predictions')
    alone = [map_of(model) for model in models]
    together = {}
    for method in METHODS:
        tool('ensemble', *models, '--out', tmp_path / method, '--method', method)
        together[method] = map_of(tmp_path / method)
    print(alone, together)
    assert max(alone) > 0.5
    assert together['wbf'] > max(alone), (alone, together)
