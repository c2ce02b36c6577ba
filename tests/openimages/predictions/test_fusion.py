"""Fusion settings, and soft-NMS against a plain restatement. Ensembles test the other methods."""

import sys

import numpy as np
import pytest

from mmoid.openimages.boxes import box_iou
from mmoid.openimages.predictions.fusion import SOFT_NMS_DECAYS, Fusion, fuse
from tests.openimages.predictions.prediction_cases import image_names, random_rows


def plain_soft_nms(rows, fusion):
    """Soft-NMS (Bodla et al. 2017) on (score, box) of one class, sorted."""
    rows, kept = list(rows), []
    while rows:
        best = max(rows)
        rows.remove(best)
        kept.append(best)
        overlaps = [box_iou(np.array(best[1]), np.array(box)) for _, box in rows]
        if fusion.decay == 'gaussian':
            factors = [np.exp(-(overlap**2) / fusion.sigma) for overlap in overlaps]
        else:
            factors = [1 - overlap if overlap > fusion.iou_threshold else 1 for overlap in overlaps]
        rows = [(score * factor, box) for (score, box), factor in zip(rows, factors)]
    return sorted((score, box) for score, box in kept if score > fusion.least_score)


@pytest.mark.parametrize('decay', SOFT_NMS_DECAYS)
@pytest.mark.parametrize('weights', [None, [2, 1, 0.5]])
def test_soft_nms_decays_scores(decay, weights):
    fusion = Fusion(method='soft_nms', decay=decay, iou_threshold=0.5, least_score=0.02)
    for seed in range(10):
        rows = random_rows(np.random.default_rng(seed), 3, 20, 2)
        parts = [[row for row in rows if row.image == image] for image in image_names(3)]  # as if of three models
        boxes = [np.array([row.box for row in part]).reshape(-1, 4) for part in parts]
        scores = [np.array([row.score for row in part]) for part in parts]
        labels = [np.array([row.label for row in part], dtype=int) for part in parts]
        before = [part.copy() for part in (*boxes, *scores, *labels)]
        box, score, label = fuse(fusion, boxes, scores, labels, weights)
        assert all(map(np.array_equal, before, (*boxes, *scores, *labels))), 'the input stays'
        scale = [1, 1, 1] if weights is None else np.array(weights) / sum(weights)
        for k in range(2):
            own = [(row.score * scale[m], row.box) for m, part in enumerate(parts) for row in part if row.label == k]
            expected = plain_soft_nms(own, fusion)
            found = sorted(zip(score[label == k], map(tuple, box[label == k])))
            assert [place for _, place in found] == [place for _, place in expected]
            np.testing.assert_allclose([value for value, _ in found], [value for value, _ in expected], rtol=1e-9)


def test_settings_out_of_range_are_errors():
    for options, message in (
        (dict(method='mean'), "method must be one of nms, soft_nms, nmw, wbf, got 'mean'"),
        (dict(confidence='min'), 'confidence must be one of avg, max'),
        (dict(iou_threshold=1), 'iou_threshold must be between 0 and 1, got 1'),
        (dict(sigma=0), 'sigma must be above 0'),
        (dict(max_per_image=0), 'max_per_image must be at least 1, got 0'),
    ):
        with pytest.raises(ValueError, match=message):
            Fusion(**options)


def test_without_ensemble_boxes_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ensemble_boxes', None)
    with pytest.raises(ImportError, match=r"pip install 'mmoid\[ensemble\]'"):
        Fusion()
