"""Fusion settings, and soft-NMS against a plain restatement. Ensembles test the other methods."""

import subprocess
import sys
from pathlib import Path

import ensemble_boxes
import numpy as np
import pytest

from mmoid.openimages.predictions.fusion import SOFT_NMS_DECAYS, Fusion, fuse
from tests.openimages.predictions.prediction_cases import image_names, random_rows


def plain_soft_nms(rows, fusion):
    """Soft-NMS (Bodla et al. 2017) on (score, box) of one class."""
    rows, kept = list(rows), []
    while rows:
        best = max(rows)
        rows.remove(best)
        kept.append(best)
        overlaps = [iou(best[1], box) for _, box in rows]
        if fusion.decay == 'gaussian':
            factors = [np.exp(-(overlap**2) / fusion.sigma) for overlap in overlaps]
        else:
            factors = [1 - overlap if overlap > fusion.iou_threshold else 1 for overlap in overlaps]
        rows = [(score * factor, box) for (score, box), factor in zip(rows, factors)]
    return [(score, box) for score, box in kept if score > fusion.least_score]


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


@pytest.mark.parametrize('decay', SOFT_NMS_DECAYS)
@pytest.mark.parametrize('weights', [None, [2, 1, 0.5]])
def test_soft_nms_keeps_the_boxes_of_ensemble_boxes_and_decays_their_scores(decay, weights):
    fusion = Fusion(method='soft_nms', decay=decay, iou_threshold=0.5, least_score=0.02)
    for seed in range(20):
        rows = [row for row in random_rows(np.random.default_rng(seed), 3, 20, 2)]
        parts = [[row for row in rows if row.image == image] for image in image_names(3)]  # as if of three models
        columns = [[np.array([row[k] for row in part]) for part in parts] for k in (3, 2, 1)]
        columns[0] = [np.clip(box.reshape(-1, 4), 0, 1) for box in columns[0]]
        columns[2] = [label.astype(int) for label in columns[2]]
        before = [part.copy() for column in columns for part in column]
        box, score, label = fuse(fusion, *columns, weights)
        assert all(map(np.array_equal, before, [part for column in columns for part in column]))
        method = {'linear': 1, 'gaussian': 2}[decay]
        same = ensemble_boxes.soft_nms(*columns, method=method, iou_thr=0.5, thresh=0.02, weights=weights)
        assert np.array_equal(box, same[0]) and np.array_equal(label, same[2])
        scale = [1, 1, 1] if weights is None else np.array(weights) / sum(weights)
        for k in range(2):
            own = [(m, row) for m, part in enumerate(parts) for row in part if row.label == k]
            mine = [(row.score * scale[m], tuple(np.clip(row.box, 0, 1))) for m, row in own]
            kept = [(s, tuple(b)) for s, b in zip(score[label == k], box[label == k])]
            for (ours, place), (plain, plain_place) in zip(sorted(kept), sorted(plain_soft_nms(mine, fusion))):
                assert ours == pytest.approx(plain, rel=1e-9) and place == plain_place
            assert len(kept) == len(plain_soft_nms(mine, fusion))


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


def test_ensemble_boxes_is_imported_only_to_fuse(monkeypatch):
    code = 'import sys, mmoid.openimages.predictions.ensemble as e; assert not {"numba", "torch"} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=Path(__file__).parents[3])
    monkeypatch.setitem(sys.modules, 'ensemble_boxes', None)
    with pytest.raises(ImportError, match=r"pip install 'mmoid\[ensemble\]'"):
        Fusion()
