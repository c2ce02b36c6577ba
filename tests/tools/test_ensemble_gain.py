"""An ensemble of three models has a higher official mAP than the best of them."""

import numpy as np

from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.evaluator import evaluate_predictions
from mmoid.openimages.predictions.ensemble import match_sets, run_ensemble
from mmoid.openimages.predictions.fusion import METHODS, Fusion
from mmoid.openimages.predictions.prediction_store import Detections, PredictionStore
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.openimages.predictions.prediction_cases import write_for


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
