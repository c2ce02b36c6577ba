"""An ensemble of three models has a higher official mAP than the best of them."""

import json

import numpy as np
import pytest

from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.evaluator import evaluate_predictions
from mmoid.openimages.predictions.ensemble import match_sets, run_ensemble
from mmoid.openimages.predictions.fusion import METHODS, Fusion
from mmoid.openimages.predictions.prediction_store import Detections, PredictionStore
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.openimages.predictions.prediction_cases import write_for
from tests.tool_runs import SMALL_CONFIG, data_environment, run, tool

WORLD = ('--num-train', 1200, '--num-classes', 24, '--imbalance', 100, '--confusable-pairs', 2)  # the quickstart's


def write_model(folder, store, seed, found=0.7, jitter=0.12, false_per_image=12):
    """Predictions with random errors: missed and displaced boxes, noisy scores, false positives."""
    rng = np.random.default_rng(seed)
    source, label = store.hierarchy.expand_up(store.box_label)
    image = np.repeat(np.arange(store.num_images), np.diff(store.box_stop, prepend=0))[source]
    seen = rng.random(len(source)) < found
    image, label, box = image[seen], label[seen], store.box[source[seen]]
    box = box + rng.normal(0, jitter, box.shape) * np.tile(box[:, 2:] - box[:, :2], 2)
    false = store.num_images * false_per_image
    low = rng.uniform(0, 0.7, (false, 2))
    columns = Detections(
        np.concatenate([image, np.repeat(np.arange(store.num_images), false_per_image)]),
        np.concatenate([label, rng.integers(0, store.num_classes, false)]),
        np.concatenate([rng.beta(4, 2, len(label)), rng.beta(2, 4, false)]),
        np.concatenate([box, np.concatenate([low, low + rng.uniform(0.1, 0.3, low.shape)], axis=1)]),
    ).best_first()
    return write_for(store, folder, columns)


def test_three_models_with_independent_errors_are_better_together(tiny_data, tmp_path):
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


@pytest.mark.slow
def test_three_trained_models_are_better_together(tmp_path):
    """Trains the quickstart with three seeds; half an hour on two cores."""
    data, files = tmp_path / 'data', tmp_path / 'data' / 'annotations'
    tool('make_synthetic_openimages', '--out', data, *WORLD)
    classes = ('--classes', files / 'classes-description.csv', '--hierarchy', files / 'label-hierarchy.json')
    for split in ('train', 'validation'):
        boxes = ('--boxes', files / f'{split}-detection-bbox.csv', '--images', data / 'images' / split)
        labels = ('--labels', files / f'{split}-detection-human-imagelabels.csv')
        tool('prepare_openimages', '--out', data / split, *boxes, *labels, *classes)
    tool('concurrent_rates', data / 'train', '--out', data / 'concurrent_rates.npz')
    environment = data_environment(data)

    def map_of(predictions):
        out = predictions.with_suffix('.json')
        tool('evaluate_predictions', '--store', data / 'validation', '--predictions', predictions, '--out', out)
        return json.loads(out.read_text())['mAP']

    models = [tmp_path / f'seed{seed}' / 'predictions' for seed in range(3)]
    for seed, model in enumerate(models):
        train = ('--work-dir', model.parent, '--cfg-options', f'randomness.seed={seed}')
        run('bash', 'tools/dist_train.sh', SMALL_CONFIG, 2, *train, timeout=3600, **environment)
        test = (model.parent / 'epoch_5.pth', 2, '--work-dir', model.parent / 'test', '--out', model)
        run('bash', 'tools/dist_test.sh', SMALL_CONFIG, *test, **environment)
    alone = [map_of(model) for model in models]
    for method in METHODS:
        tool('ensemble', *models, '--out', tmp_path / method, '--method', method)
    together = {method: map_of(tmp_path / method) for method in METHODS}
    print(alone, together)
    assert max(alone) > 0.5
    assert together['wbf'] > max(alone), (alone, together)
