"""Whole detectors of mmdet with our head, sampler and losses."""

import copy

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.cascade_roi_head import CascadeRoIHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.hub import get_config
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.structures import InstanceData

import mmoid.registry  # noqa: F401
from mmoid.models.losses import concurrent_softmax
from mmoid.openimages.boxes import box_iou
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions.ancestors import add_ancestors

CLASSES = 4
# 0 girl, 1 woman, both below 2 person; 3 chair
ANCESTORS = np.zeros((CLASSES, CLASSES), dtype=bool)
ANCESTORS[0, 2] = ANCESTORS[1, 2] = True
MIDS = ('girl', 'woman', 'person', 'chair')
TREE = {
    'LabelName': 'root',
    'Subcategory': [
        {'LabelName': 'person', 'Subcategory': [{'LabelName': 'girl'}, {'LabelName': 'woman'}]},
        {'LabelName': 'chair'},
    ],
}
LOSSES = ('SoftmaxLoss', 'LabelSetFocalLoss', 'LabelSetBCELoss', 'CoBCELoss', 'DistCELoss', 'ConcurrentSoftmaxLoss')


def small(model):
    """A narrow R-18 that a test can afford."""
    model.backbone.update(depth=18, base_channels=8, init_cfg=None, frozen_stages=-1, norm_eval=False)
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.roi_head.bbox_roi_extractor.update(out_channels=16)
    return model


def box_head(head, loss='ConcurrentSoftmaxLoss', **kwargs):
    head.update(type='mmoid.LabelSetBBoxHead', in_channels=16, fc_out_channels=32, num_classes=CLASSES, **kwargs)
    head.loss_cls = dict(type=f'mmoid.{loss}', hierarchy=ANCESTORS)


def label_set_sampler(rcnn):
    rcnn.sampler.update(type='mmoid.LabelSetSampler', num=32, ancestors=True)


def faster_rcnn(loss='ConcurrentSoftmaxLoss', **kwargs):
    model = small(get_config('mmdet::_base_/models/faster-rcnn_r50_fpn.py').model)
    box_head(model.roi_head.bbox_head, loss, **kwargs)
    label_set_sampler(model.train_cfg.rcnn)
    model.test_cfg.rcnn.score_thr = 0.0
    return MODELS.build(model)


def cascade_rcnn(loss='ConcurrentSoftmaxLoss', **kwargs):
    model = small(get_config('mmdet::_base_/models/cascade-rcnn_r50_fpn.py').model)
    for head in model.roi_head.bbox_head:
        box_head(head, loss, **kwargs)
    for rcnn in model.train_cfg.rcnn:
        label_set_sampler(rcnn)
    model.test_cfg.rcnn.score_thr = 0.0
    return MODELS.build(model)


def batch():
    torch.manual_seed(0)
    truth = InstanceData(
        bboxes=torch.tensor([[10.0, 10, 50, 50], [10, 10, 50, 50], [60, 20, 90, 80]]), labels=torch.tensor([0, 1, 3])
    )
    empty = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    samples = []
    for instances in (truth, empty):
        sample = DetDataSample(gt_instances=instances, ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)))
        shape = (96, 96)
        shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), shape)
        sample.set_metainfo(dict(shapes, scale_factor=(1.0, 1.0)))
        samples.append(sample)
    return torch.randn(2, 3, 96, 96), samples


@pytest.fixture(autouse=True)
def mmdet_scope():
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('build', [faster_rcnn, cascade_rcnn])
def test_every_loss_trains_and_predicts_in_faster_and_cascade_rcnn(build, loss):
    torch.manual_seed(1)
    model = build(loss)
    model.init_weights()
    total, logged = model.parse_losses(model.loss(*batch()))
    total.backward()
    heads = model.roi_head.bbox_head if isinstance(model.roi_head, CascadeRoIHead) else [model.roi_head.bbox_head]
    assert total.isfinite() and sum('loss_cls' in key for key in logged) == len(heads)
    for head in heads:
        assert head.fc_cls.weight.grad.abs().sum() > 0
        expected = 0.0 if loss in ('SoftmaxLoss', 'DistCELoss', 'ConcurrentSoftmaxLoss') else -np.log(99)
        assert head.fc_cls.bias.mean().item() == pytest.approx(expected, abs=1e-6)
    found = model.eval().predict(*batch())
    assert all(((sample.pred_instances.scores >= 0) & (sample.pred_instances.scores <= 1)).all() for sample in found)
    assert len(found[0].pred_instances)


@pytest.mark.parametrize('agnostic', [False, True])
@pytest.mark.parametrize('build', [faster_rcnn, cascade_rcnn])
def test_detections_count_for_the_ancestors_of_their_class_as_in_submissions(build, agnostic):
    torch.manual_seed(1)
    model = build(reg_class_agnostic=agnostic).eval()
    heads = model.roi_head.bbox_head if isinstance(model.roi_head, CascadeRoIHead) else [model.roi_head.bbox_head]
    found = {}
    for adds in (False, True):
        for head in heads:
            head.add_ancestors = adds
        found[adds] = [sample.pred_instances for sample in model.predict(*batch())][0].numpy()
    own = found[False]
    hierarchy = ClassHierarchy(TREE, MIDS)
    image = np.zeros(len(own), dtype=int)
    rows, label = add_ancestors(hierarchy, image, own.labels, own.scores, own.bboxes, nms_iou=0.5)
    order, expected_order = (
        np.lexsort((label, -score))
        for label, score in ((found[True].labels, found[True].scores), (label, own.scores[rows]))
    )
    assert (found[True].labels[order] == label[expected_order]).all()
    assert np.allclose(found[True].bboxes[order], own.bboxes[rows][expected_order])
    for child in (0, 1):  # a parent never scores below its child on the same box
        for box, score in zip(own.bboxes[own.labels == child], own.scores[own.labels == child]):
            overlap = box_iou(np.tile(box, (len(found[True]), 1)), found[True].bboxes)
            assert found[True].scores[(overlap > 0.5) & (found[True].labels == 2)].max() >= score


def test_a_checkpoint_brings_its_ancestors_without_data_files():
    torch.manual_seed(1)
    trained = faster_rcnn()
    config = small(get_config('mmdet::_base_/models/faster-rcnn_r50_fpn.py').model)
    box_head(config.roi_head.bbox_head)
    config.roi_head.bbox_head.loss_cls['hierarchy'] = 'nowhere'
    config.train_cfg = None
    model = MODELS.build(config)
    assert not model.roi_head.bbox_head.ancestors.any()
    model.load_state_dict(trained.state_dict())
    assert (model.roi_head.bbox_head.ancestors.numpy() == ANCESTORS).all()


@pytest.mark.parametrize('agnostic', [False, True])
def test_cascade_refines_a_positive_by_its_label_and_background_by_its_best_score(agnostic):
    model = cascade_rcnn(reg_class_agnostic=agnostic)
    head = model.roi_head.bbox_head[0]
    torch.manual_seed(2)
    boxes = torch.tensor([[10.0, 10, 50, 50], [60, 20, 90, 80], [5, 50, 30, 90]])
    results = {
        'rois': torch.cat([torch.zeros(3, 1), boxes], dim=1),
        'bbox_targets': (torch.tensor([1, 3, CLASSES]), None, None, None),  # the third is background
        'cls_score': torch.tensor([[5.0, 0, 0, 0, 0], [5, 0, 0, 0, 0], [0, 3, 0, 0, 9]]),
        'bbox_pred': torch.randn(3, 4 if agnostic else 4 * CLASSES) / 5,
    }
    sampling = [InstanceData(pos_is_gt=torch.zeros(2))]
    refined = head.refine_bboxes(sampling, results, [dict(img_shape=(96, 96))])
    deltas = results['bbox_pred'].view(3, -1, 4)
    scores = concurrent_softmax(results['cls_score'], head.loss_cls.rates)
    labels = [1, 3, int(scores[2, :-1].argmax())]
    assert labels[2] == 1
    for row, label in enumerate(labels):
        delta = deltas[row : row + 1, 0 if agnostic else label]
        expected = head.bbox_coder.decode(boxes[row : row + 1], delta, max_shape=(96, 96))
        assert torch.allclose(refined[0].bboxes[row], expected[0])


def objects(model):
    """One object, Girl, and a proposal beside it: sampling result, RoIs, features of the box head."""
    truth = InstanceData(bboxes=torch.tensor([[10.0, 10, 50, 50]]), labels=torch.tensor([0]))
    priors = InstanceData(priors=truth.bboxes + torch.tensor([[-3.0, 4, 5, -6]]))
    assigned = model.roi_head.bbox_assigner.assign(priors, truth, None)
    result = model.roi_head.bbox_sampler.sample(assigned, priors, truth)
    rois = torch.cat([torch.zeros(len(result.priors), 1), result.priors], dim=1)
    return truth, result, rois, torch.randn(len(rois), 16, 7, 7)


@pytest.mark.parametrize('loss', LOSSES)
def test_autocast_leaves_the_loss_in_float32(loss):
    # The head alone: mmcv has no RoI align in bfloat16 for the CPU.
    torch.manual_seed(1)
    model = faster_rcnn(loss)
    _, result, rois, features = objects(model)
    head = model.roi_head.bbox_head
    with torch.autocast('cpu', dtype=torch.bfloat16):
        cls_score, bbox_pred = head(features)
        assert cls_score.dtype == torch.bfloat16
        losses = head.loss_and_target(cls_score, bbox_pred, rois, [result], model.train_cfg.rcnn)['loss_bbox']
    assert losses['loss_cls'].dtype == torch.float32
    (losses['loss_cls'] + losses['loss_bbox']).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='mmengine has --amp for accelerators only')
def test_a_detector_trains_with_amp():
    torch.manual_seed(1)
    model = faster_rcnn().cuda()
    images, samples = batch()
    data = images.cuda(), [sample.to('cuda') for sample in samples]
    # float16, mmengine's default: mmcv's RoIAlign has no bfloat16. A low scale, so that no step is skipped.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    wrapper = AmpOptimWrapper(loss_scale=dict(init_scale=64.0), optimizer=optimizer)
    before = model.roi_head.bbox_head.fc_cls.weight.detach().clone()
    for _ in range(3):
        with wrapper.optim_context(model):
            losses, _ = model.parse_losses(model.loss(*data))
        wrapper.update_params(losses)
    assert losses.isfinite() and not torch.equal(model.roi_head.bbox_head.fc_cls.weight, before)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_gradients_accumulate_to_those_of_the_whole():
    torch.manual_seed(1)
    model = faster_rcnn().eval()  # batch norm must not see the order of the halves
    twin = copy.deepcopy(model)
    for detector, count in ((model, 2), (twin, 1)):
        wrapper = OptimWrapper(torch.optim.SGD(detector.parameters(), lr=0.1), accumulative_counts=count)
        wrapper.initialize_count_status(detector, 0, count)
        for _ in range(count):
            torch.manual_seed(3)  # RoI sampling
            with wrapper.optim_context(detector):
                losses, _ = detector.parse_losses(detector.loss(*batch()))
            wrapper.update_params(losses)
    for ours, other in zip(model.parameters(), twin.parameters()):
        assert torch.allclose(ours, other, atol=1e-6)


def test_a_parents_box_is_learned_from_the_objects_of_its_children():
    """No ground truth is labelled Person (2), yet its regressor ends where those of Girl and Woman do."""
    learned = {}
    for loss in ('ConcurrentSoftmaxLoss', 'SoftmaxLoss'):
        torch.manual_seed(1)
        model = faster_rcnn(loss)
        head = model.roi_head.bbox_head
        truth, result, rois, features = objects(model)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
        for _ in range(60):
            cls_score, bbox_pred = head(features)
            out = head.loss_and_target(cls_score, bbox_pred, rois, [result], model.train_cfg.rcnn)
            optimizer.zero_grad()
            out['loss_bbox']['loss_bbox'].backward()
            optimizer.step()
        _, bbox_pred = head(features)
        for label in range(CLASSES):
            decoded = head.bbox_coder.decode(result.priors, bbox_pred.view(len(rois), CLASSES, 4)[:, label])
            learned[loss, label] = (decoded - truth.bboxes).abs().max().item()
    assert learned['ConcurrentSoftmaxLoss', 0] < 1.5 and learned['SoftmaxLoss', 0] < 1.5
    assert learned['ConcurrentSoftmaxLoss', 2] < 1.5  # Person, from Girl
    assert learned['SoftmaxLoss', 2] > 3  # one label: nothing has taught it
    assert learned['ConcurrentSoftmaxLoss', 3] > 3  # Chair is no parent of Girl
