"""LabelSetTTAModel: views are fused as an ensemble is, or by NMS as in mmdet."""

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

import mmoid
from mmoid.openimages.predictions.ensemble import METHODS, Fusion, fuse

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
    model = mmoid.LabelSetTTAModel(tta_cfg=tta_cfg, module=Detector())
    views = [[sample] for sample in copy.deepcopy(samples)]
    (sample,) = model.test_step(dict(inputs=[[None]] * len(views), data_samples=views))
    return sample.pred_instances


def rows_of(found):
    """(score, label, box), best first."""
    rows = zip(found.scores.tolist(), found.labels.tolist(), map(tuple, found.bboxes.tolist()))
    return sorted(rows, reverse=True)


def fused(samples, fusion):
    """The views' boxes as they are in the image, fused as those of an ensemble."""
    views = []
    for sample in samples:
        found = sample.pred_instances.numpy()
        box = found.bboxes.astype(float) / (100, 60, 100, 60)
        if sample.get('flip'):
            box[:, [0, 2]] = 1 - box[:, [2, 0]]
        used = fusion.usable(found.scores, box)
        views.append((box[used], found.scores[used], found.labels[used]))
    box, score, label = fuse(fusion, *zip(*views))
    return sorted(zip(score.tolist(), label.tolist(), box * (100, 60, 100, 60)), key=lambda row: -row[0])


RULES = {method: dict(fusion=dict(method=method, iou_threshold=0.6)) for method in METHODS}
RULES['nms by mmcv'] = dict(nms=dict(type='nms', iou_threshold=0.5))


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('seed', range(3))
def test_views_are_fused_like_the_models_of_an_ensemble(method, seed):
    samples = views_of(seed)
    expected = fused(samples, Fusion(method, iou_threshold=0.6))
    for most in (1000, 10):
        found = rows_of(merged(samples, **RULES[method], max_per_img=most))
        assert len(found) == min(len(expected), most) and len(expected) > 10
        for (score, label, box), (other, other_label, other_box) in zip(found, expected):
            assert score == pytest.approx(other, abs=1e-5) and label == other_label
            assert box == pytest.approx(other_box, abs=2e-3)


def test_nms_is_that_of_mmdet():
    samples = views_of(7)
    settings = dict(**RULES['nms by mmcv'], max_per_img=30)
    ours = rows_of(merged(samples, **settings))
    for sample in samples:  # mmdet needs them in every view
        sample.set_metainfo(dict(flip=sample.get('flip', False), flip_direction=sample.get('flip_direction')))
    stock = DetTTAModel(tta_cfg=ConfigDict(settings), module=Detector())
    (expected,) = stock.merge_preds([copy.deepcopy(samples)])
    assert ours == rows_of(expected.pred_instances)


@pytest.mark.parametrize('rule', RULES)
def test_labels_on_one_box_do_not_compete(rule):
    """All labels of an object stay, with scores near 1 as concurrent softmax gives them."""
    box = torch.tensor([[10.0, 10, 50, 50]] * 3)
    found = InstanceData(bboxes=box, scores=torch.tensor([0.97, 0.96, 0.95]), labels=torch.tensor([0, 1, 3]))
    views = [DetDataSample(metainfo=dict(img_id='a', ori_shape=SIZE), pred_instances=found) for _ in range(3)]
    kept = [row for row in rows_of(merged(views, **RULES[rule], max_per_img=9)) if row[0] > 0.9]
    assert [label for _, label, _ in kept] == [0, 1, 3]
    assert [score for score, _, _ in kept] == pytest.approx([0.97, 0.96, 0.95], abs=1e-6)


@pytest.mark.parametrize('rule', RULES)
def test_views_without_detections_are_no_error(rule):
    samples = views_of(0, per_view=0)
    found = merged(samples, **RULES[rule], max_per_img=10)
    assert len(found) == 0 and found.bboxes.shape == (0, 4)


def test_settings_are_checked_when_the_model_is_built(monkeypatch):
    for settings, message in (
        (dict(max_per_img=9), 'tta_cfg: expects either nms=.* got neither'),
        (dict(nms=dict(type='nms'), fusion=dict(method='wbf'), max_per_img=9), 'got nms and fusion'),
        (dict(nms=dict(type='nms')), r'max_per_img: expects a positive int, got None'),
        (dict(fusion=dict(method='mean'), max_per_img=9), r"method must be one of nms, .* got 'mean'"),
    ):
        with pytest.raises(ValueError, match=message):
            mmoid.LabelSetTTAModel(tta_cfg=settings, module=Detector())
    monkeypatch.setitem(sys.modules, 'ensemble_boxes', None)
    with pytest.raises(ImportError, match=r"pip install 'mmoid\[ensemble\]'"):
        mmoid.LabelSetTTAModel(tta_cfg=dict(fusion=dict(), max_per_img=9), module=Detector())
