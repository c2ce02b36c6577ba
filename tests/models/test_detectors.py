"""Whole detectors of mmdet with our head, sampler and losses."""

import numpy as np
import pytest
import torch
from mmdet.models.task_modules.samplers import OHEMSampler
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.hub import get_config
from mmengine.optim import AmpOptimWrapper
from mmengine.structures import InstanceData

import mmoid
from mmoid.openimages.boxes import box_iou
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions.ancestors import add_ancestors
from tests.narrow import narrow
from tests.official_files import tree

CLASSES = 4
# 0 girl, 1 woman, both below 2 person; 3 chair
ANCESTORS = np.zeros((CLASSES, CLASSES), dtype=bool)
ANCESTORS[0, 2] = ANCESTORS[1, 2] = True
MIDS = ('girl', 'woman', 'person', 'chair')
TREE = tree({'person': {'girl': {}, 'woman': {}}, 'chair': {}})
LOSSES = ('SoftmaxLoss', 'LabelSetFocalLoss', 'LabelSetBCELoss', 'CoBCELoss', 'DistCELoss', 'ConcurrentSoftmaxLoss')


def rcnn(name='faster-rcnn', loss='ConcurrentSoftmaxLoss', **kwargs):
    """Config of a detector with our heads and samplers."""
    model = narrow(get_config(f'mmdet::_base_/models/{name}_r50_fpn.py').model)
    heads, stages = model.roi_head.bbox_head, model.train_cfg.rcnn
    for head in heads if isinstance(heads, list) else [heads]:
        head.update(type='mmoid.LabelSetBBoxHead', num_classes=CLASSES, **kwargs)
        head.loss_cls = dict(type=f'mmoid.{loss}', hierarchy=ANCESTORS)
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.update(type='mmoid.LabelSetSampler', num=32, ancestors=True)
    model.test_cfg.rcnn.score_thr = 0.0
    return model


def heads_of(model):
    heads = model.roi_head.bbox_head
    return list(heads) if isinstance(heads, torch.nn.ModuleList) else [heads]


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


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('name', ['faster-rcnn', 'cascade-rcnn'])
def test_every_loss_trains_and_predicts_in_faster_and_cascade_rcnn(name, loss):
    torch.manual_seed(1)
    model = MODELS.build(rcnn(name, loss))
    model.init_weights()
    total, logged = model.parse_losses(model.loss(*batch()))
    total.backward()
    heads = heads_of(model)
    assert total.isfinite() and sum('loss_cls' in key for key in logged) == len(heads)
    for head in heads:
        assert head.fc_cls.weight.grad.abs().sum() > 0
        expected = -np.log(99) if loss in ('LabelSetFocalLoss', 'LabelSetBCELoss', 'CoBCELoss') else 0.0
        assert head.fc_cls.bias.mean().item() == pytest.approx(expected, abs=1e-6)
    found = model.eval().predict(*batch())
    assert all(((sample.pred_instances.scores >= 0) & (sample.pred_instances.scores <= 1)).all() for sample in found)
    assert len(found[0].pred_instances)


@pytest.mark.parametrize('agnostic', [False, True])
@pytest.mark.parametrize('name', ['faster-rcnn', 'cascade-rcnn'])
def test_detections_count_for_the_ancestors_of_their_class_as_in_submissions(name, agnostic):
    torch.manual_seed(1)
    model = MODELS.build(rcnn(name, reg_class_agnostic=agnostic)).eval()
    found = {}
    for adds in (False, True):
        for head in heads_of(model):
            head.add_ancestors = adds
        found[adds] = [sample.pred_instances for sample in model.predict(*batch())][0].numpy()
    own = found[False]
    hierarchy = ClassHierarchy(TREE, MIDS)
    image = np.zeros(len(own), dtype=int)
    rows, label = add_ancestors(hierarchy, image, own.labels, own.scores, own.bboxes, nms_iou=0.5)
    order = np.lexsort((found[True].labels, -found[True].scores))
    expected_order = np.lexsort((label, -own.scores[rows]))
    assert (found[True].labels[order] == label[expected_order]).all()
    assert np.allclose(found[True].bboxes[order], own.bboxes[rows][expected_order])
    for child in (0, 1):  # a parent never scores below its child on the same box
        for box, score in zip(own.bboxes[own.labels == child], own.scores[own.labels == child]):
            overlap = box_iou(np.tile(box, (len(found[True]), 1)), found[True].bboxes)
            assert found[True].scores[(overlap > 0.5) & (found[True].labels == 2)].max() >= score


@pytest.mark.skipif(not torch.cuda.is_available(), reason='mmengine has --amp for accelerators only')
def test_a_detector_trains_with_amp():
    torch.manual_seed(1)
    model = MODELS.build(rcnn()).cuda()
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


@pytest.mark.parametrize('loss', ['ConcurrentSoftmaxLoss', 'LabelSetBCELoss'])
@pytest.mark.parametrize('name', ['faster-rcnn', 'retinanet'])
def test_a_head_that_gives_single_labels_to_a_loss_of_label_sets_is_an_error(name, loss):
    model = narrow(get_config(f'mmdet::_base_/models/{name}_r50_fpn.py').model)
    head = model.bbox_head if name == 'retinanet' else model.roi_head.bbox_head
    head.num_classes = CLASSES
    head.loss_cls = dict(type=f'mmoid.{loss}', num_classes=CLASSES)
    model = MODELS.build(model)
    model.init_weights()
    model.train()  # as the Runner does: a loss outside of a training takes either
    with pytest.raises(ValueError, match=f'{loss} needs label sets, and this head gives single labels'):
        model.loss(*batch())


def with_sampler(wrapped, loss, roi_head='StandardRoIHead'):
    model = rcnn(loss=loss)
    model.roi_head.type = roi_head
    model.train_cfg.rcnn.sampler.sampler = wrapped
    model = MODELS.build(model)
    model.init_weights()
    return model.train()


def test_ohem_samples_the_hardest_rois_with_label_sets():
    model = with_sampler('OHEMSampler', 'ConcurrentSoftmaxLoss')
    assert type(model.roi_head.bbox_sampler.sampler).__name__ == 'OHEMSampler'
    assert model.parse_losses(model.loss(*batch()))[0].isfinite()


def test_pisa_gets_the_weights_of_its_sampler_but_no_label_sets():
    model = with_sampler('ScoreHLRSampler', 'SoftmaxLoss', 'PISARoIHead')
    assert model.parse_losses(model.loss(*batch()))[0].isfinite()
    with pytest.raises(ValueError, match='in a StandardRoIHead or CascadeRoIHead'):
        with_sampler('ScoreHLRSampler', 'ConcurrentSoftmaxLoss', 'PISARoIHead').loss(*batch())


def test_a_trained_model_brings_its_ancestors_and_without_any_it_fails():
    trained = MODELS.build(rcnn())
    config = rcnn(loss='SoftmaxLoss')
    config.train_cfg = None
    config.roi_head.bbox_head.loss_cls['hierarchy'] = 'nowhere'
    model = MODELS.build(config).eval()
    with pytest.raises(AnnotationError, match=r'loss_cls\.hierarchy = nowhere: no such file, and no checkpoint with'):
        model.predict(*batch())
    model.load_state_dict(trained.state_dict(), strict=False)
    assert (model.roi_head.bbox_head.ancestors.numpy() == ANCESTORS).all()
    model.predict(*batch())


def test_modules_may_be_given_as_classes():
    model = rcnn()
    model.roi_head.bbox_head.update(type=mmoid.LabelSetBBoxHead)
    model.roi_head.bbox_head.loss_cls.type = mmoid.DistCELoss
    model.train_cfg.rcnn.sampler.update(type=mmoid.LabelSetSampler, sampler=OHEMSampler)
    built = MODELS.build(model).roi_head
    assert type(built.bbox_head.loss_cls) is mmoid.DistCELoss and type(built.bbox_sampler.sampler) is OHEMSampler
