"""LabelSetTTAModel against a plain restatement, and against mmdet for NMS."""

import copy
import sys

import numpy as np
import pytest
import torch
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import nn

import mmoid.models

SIZE = (60, 100)  # height, width
CLASSES = 4


class Detector(nn.Module):
    """Passes given views on."""

    def test_step(self, data):
        return data['data_samples']


def views_of(seed, views=4, per_view=25):
    """Detections of some objects in several views, every second one flipped; a fifth of the boxes has two labels."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.6, (4, 2))
    objects = np.concatenate([low, low + rng.uniform(0.15, 0.4, (4, 2))], axis=1) * (100, 60, 100, 60)
    samples = []
    for view in range(views):
        count = int(rng.integers(0, per_view + 1))
        box = np.clip(objects[rng.integers(0, 4, count)] + rng.normal(0, 2, (count, 4)), 0, (100, 60, 100, 60))
        twice = rng.integers(0, max(count, 1), count // 5)
        box = np.concatenate([box, box[twice]])
        label = rng.integers(0, CLASSES, len(box))
        score = rng.uniform(0.01, 1, len(box)).astype(np.float32)
        meta = dict(img_id='a', ori_shape=SIZE, scale_factor=(0.5 + view, 0.5 + view))
        if view % 2:
            meta |= dict(flip=True, flip_direction='horizontal')
            box[:, [0, 2]] = 100 - box[:, [2, 0]]
        elif view:
            meta |= dict(flip=False, flip_direction=None)  # the first one, without RandomFlip, has no such key
        columns = dict(bboxes=torch.from_numpy(box).float(), scores=torch.from_numpy(score))
        found = InstanceData(**columns, labels=torch.from_numpy(label))
        samples.append(DetDataSample(metainfo=meta, pred_instances=found))
    return samples


def merged(samples, **tta_cfg):
    model = mmoid.models.LabelSetTTAModel(tta_cfg=tta_cfg, module=Detector())
    (sample,) = model.test_step(
        dict(inputs=[[None]] * len(samples), data_samples=[[s] for s in copy.deepcopy(samples)])
    )
    return sample.pred_instances


def rows_of(found):
    """(score, label, box), best first."""
    rows = zip(found.scores.tolist(), found.labels.tolist(), map(tuple, found.bboxes.tolist()))
    return sorted(rows, reverse=True)


def unflipped(samples):
    """The views' (score, label, box), boxes as they are in the image."""
    views = []
    for sample in samples:
        rows = []
        for score, label, (x1, y1, x2, y2) in rows_of(sample.pred_instances):
            box = (SIZE[1] - x2, y1, SIZE[1] - x1, y2) if sample.get('flip') else (x1, y1, x2, y2)
            rows.append((score, label, box))
        views.append(rows)
    return views


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def plain_nms(views, threshold):
    kept = []
    for row in sorted((row for view in views for row in view), reverse=True):
        if all(row[1] != other[1] or iou(row[2], other[2]) <= threshold for other in kept):
            kept.append(row)
    return kept


def plain_soft_nms(views, sigma, least):
    kept = []
    for label in range(CLASSES):
        rows = [(score, box) for view in views for score, other, box in view if other == label]
        while rows:
            best = max(rows)
            rows.remove(best)
            kept.append((best[0], label, best[1]))
            rows = [(score * np.exp(-(iou(best[1], box) ** 2) / sigma), box) for score, box in rows]
    return sorted((row for row in kept if row[0] > least), reverse=True)


def plain_clusters(views, threshold, weigh_overlap):
    """NMW (Zhou et al. 2017) and WBF (Solovyev et al. 2021): a box joins the fused box that it overlaps most."""
    fused = []
    for label in range(CLASSES):
        clusters = []
        for row in sorted((row for view in views for row in view if row[1] == label), reverse=True):
            overlaps = [iou(cluster['box'], row[2]) for cluster in clusters]
            if overlaps and max(overlaps) > threshold:
                cluster = clusters[int(np.argmax(overlaps))]
                cluster['rows'].append(row)
            else:
                cluster = dict(rows=[row], box=row[2])
                clusters.append(cluster)
            if not weigh_overlap:  # WBF moves the fused box with every one that joins
                cluster['box'] = mean(cluster['rows'], [score for score, _, _ in cluster['rows']])
        for cluster in clusters:
            rows = cluster['rows']
            scores = [score for score, _, _ in rows]
            if weigh_overlap:
                weights = [score * (iou(box, rows[0][2]) if k else 1) for k, (score, _, box) in enumerate(rows)]
                fused.append((max(scores), label, mean(rows, weights)))
            else:
                average = np.mean(scores) * min(len(rows), len(views)) / len(views)
                fused.append((average, label, cluster['box']))
    return sorted(fused, reverse=True)


def mean(rows, weights):
    return tuple(np.average([box for _, _, box in rows], axis=0, weights=weights))


RULES = {
    'nms by mmcv': (dict(nms=dict(type='nms', iou_threshold=0.5)), lambda views: plain_nms(views, 0.5)),
    'nms': (dict(fusion=dict(method='nms', iou_threshold=0.5)), lambda views: plain_nms(views, 0.5)),
    'soft nms': (
        dict(fusion=dict(method='soft_nms', sigma=0.4, least_score=0.01)),
        lambda views: plain_soft_nms(views, 0.4, 0.01),
    ),
    'nmw': (dict(fusion=dict(method='nmw', iou_threshold=0.6)), lambda views: plain_clusters(views, 0.6, True)),
    'wbf': (dict(fusion=dict(method='wbf', iou_threshold=0.6)), lambda views: plain_clusters(views, 0.6, False)),
}


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('seed', range(5))
def test_views_are_merged_as_in_the_restatement(rule, seed):
    samples = views_of(seed)
    settings, plain = RULES[rule]
    expected = plain(unflipped(samples))
    for most in (1000, 10):
        found = rows_of(merged(samples, **settings, max_per_img=most))
        assert len(found) == min(len(expected), most) and len(expected) > 10
        for (score, label, box), (other, other_label, other_box) in zip(found, expected):
            assert score == pytest.approx(other, abs=1e-5) and label == other_label
            assert box == pytest.approx(other_box, abs=2e-3)


def test_nms_is_that_of_mmdet():
    samples = views_of(7)
    for sample in samples:
        sample.set_metainfo(dict(flip=sample.get('flip', False), flip_direction=sample.get('flip_direction')))
    settings = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=30)
    stock = DetTTAModel(tta_cfg=ConfigDict(settings), module=Detector())
    (expected,) = stock.merge_preds([copy.deepcopy(samples)])
    assert rows_of(merged(samples, **settings)) == rows_of(expected.pred_instances)


@pytest.mark.parametrize('rule', RULES)
def test_labels_on_one_box_do_not_compete(rule):
    """All labels of an object stay, with scores near 1 as concurrent softmax gives them."""
    box = torch.tensor([[10.0, 10, 50, 50]] * 3)
    found = InstanceData(bboxes=box, scores=torch.tensor([0.97, 0.96, 0.95]), labels=torch.tensor([0, 1, 3]))
    views = [DetDataSample(metainfo=dict(img_id='a', ori_shape=SIZE), pred_instances=found) for _ in range(3)]
    kept = [row for row in rows_of(merged(views, **RULES[rule][0], max_per_img=9)) if row[0] > 0.9]
    assert [label for _, label, _ in kept] == [0, 1, 3]
    assert [score for score, _, _ in kept] == pytest.approx([0.97, 0.96, 0.95], abs=1e-6)


@pytest.mark.parametrize('rule', RULES)
def test_views_without_detections_are_no_error(rule):
    samples = views_of(0, per_view=0)
    found = merged(samples, **RULES[rule][0], max_per_img=10)
    assert len(found) == 0 and found.bboxes.shape == (0, 4)


def test_settings_are_checked_when_the_model_is_built(monkeypatch):
    for settings, message in (
        (dict(max_per_img=9), 'tta_cfg: expects either nms=.* got neither'),
        (dict(nms=dict(type='nms'), fusion=dict(method='wbf'), max_per_img=9), 'got nms and fusion'),
        (dict(nms=dict(type='nms')), r'max_per_img: expects a positive int, got None'),
        (dict(fusion=dict(method='mean'), max_per_img=9), r"method must be one of nms, .* got 'mean'"),
    ):
        with pytest.raises(ValueError, match=message):
            mmoid.models.LabelSetTTAModel(tta_cfg=settings, module=Detector())
    monkeypatch.setitem(sys.modules, 'ensemble_boxes', None)
    with pytest.raises(ImportError, match=r"pip install 'mmoid\[ensemble\]'"):
        mmoid.models.LabelSetTTAModel(tta_cfg=dict(fusion=dict(), max_per_img=9), module=Detector())
