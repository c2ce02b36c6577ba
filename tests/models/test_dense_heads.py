"""mmdet's one-stage and DETR-type detectors on label sets."""

import copy

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.hub import get_config
from mmengine.logging import MessageHub

from tests.models.test_detectors import ANCESTORS, CLASSES, batch
from tests.narrow import narrow

GIRL, WOMAN, PERSON, CHAIR = range(CLASSES)
CONFIGS = {
    'RetinaHead': 'retinanet/retinanet_r50_fpn_1x_coco.py',
    'ATSSHead': 'atss/atss_r50_fpn_1x_coco.py',
    'GFLHead': 'gfl/gfl_r50_fpn_1x_coco.py',
    'FCOSHead': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'TOODHead': 'tood/tood_r50_fpn_1x_coco.py',
    'RTMDetSepBNHead': 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'DeformableDETRHead': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'DINOHead': 'dino/dino-4scale_r50_8xb2-12e_coco.py',
}
LOSS = {'FocalLoss': 'mmoid.ConcurrentFocalLoss', 'QualityFocalLoss': 'mmoid.ConcurrentQualityFocalLoss'}


def small_config(head):
    """A detector of the family, narrow enough for a test."""
    model = narrow(get_config(f'mmdet::{CONFIGS[head]}').model)
    model.bbox_head.num_classes = CLASSES
    model.data_preprocessor.batch_augments = None
    if head != 'RTMDetSepBNHead':
        model.backbone.update(frozen_stages=-1, norm_eval=False, norm_cfg=dict(type='BN', requires_grad=True))
    return model


def stock(head):
    torch.manual_seed(1)
    model = MODELS.build(small_config(head))
    model.init_weights()
    return model


def label_set_detector(head, weights=None, hierarchy=None, rates=None, **options):
    model = small_config(head)
    model.bbox_head.update(type=f'mmoid.LabelSet{head}', **options)
    for key in ('loss_cls', 'initial_loss_cls'):
        if key in model.bbox_head:
            loss = model.bbox_head[key]
            loss.update(type=LOSS[loss.type], hierarchy=hierarchy, concurrent_rates=rates)
    torch.manual_seed(1)
    model = MODELS.build(model)
    model.init_weights()
    if weights is not None:
        model.load_state_dict(weights)  # of a stock head: rates and ancestors are not missing
    return model


def losses_and_gradients(model, data, epoch=10):
    MessageHub.get_current_instance().update_info('epoch', epoch)  # TOOD asks for it
    model.train()
    torch.manual_seed(2)  # DINO's noise
    losses = model.loss(*copy.deepcopy(data))
    total, logged = model.parse_losses(losses)
    model.zero_grad()
    total.backward()
    logged = {name: float(value) for name, value in logged.items()}
    return logged, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def single_labels():
    images, samples = batch()
    samples[0].gt_instances = samples[0].gt_instances[[0, 2]]
    return images, samples


# TOOD begins with another assigner.
@pytest.mark.parametrize(('head', 'epoch'), [*((head, 10) for head in CONFIGS), ('TOODHead', 0)])
def test_with_one_label_for_each_object_a_step_is_that_of_the_stock_detector(head, epoch):
    reference = stock(head)
    expected, gradients = losses_and_gradients(reference, single_labels(), epoch)
    model = label_set_detector(head, reference.state_dict())
    found, own_gradients = losses_and_gradients(model, single_labels(), epoch)
    assert found.keys() - {'acc'} == expected.keys()
    assert not model.bbox_head.boxes, 'the ground truths of the batch are not kept'
    for name in expected:
        assert found[name] == pytest.approx(expected[name], rel=2e-5, abs=1e-7), name
    for name, gradient in gradients.items():
        torch.testing.assert_close(own_gradients[name], gradient, rtol=1e-3, atol=2e-6, msg=name)


def recorded_step(model, data):
    """(N, C) logits with gradients and (N, C) int8 label sets of every call of the classification loss."""
    calls = []

    def record(loss, inputs):
        inputs[0].retain_grad()
        labels = inputs[1][0] if isinstance(inputs[1], tuple) else inputs[1]
        calls.append((inputs[0], loss.table.of(labels)))

    handle = model.bbox_head.loss_cls.register_forward_pre_hook(record)
    losses_and_gradients(model, data)
    handle.remove()
    return [(logits.grad, sets) for logits, sets in calls]


@pytest.mark.parametrize(('options', 'person'), [({}, 0), (dict(sets_with_ancestors=True), 1)])
@pytest.mark.parametrize('head', CONFIGS)
def test_two_boxes_on_one_object_are_one_label_set(head, options, person):
    calls = recorded_step(label_set_detector(head, hierarchy=ANCESTORS, **options), batch())
    wanted = {(1, 1, person, 0), (0, 0, 0, 1)}
    for gradient, sets in calls:
        kinds = torch.unique(sets[(sets == 1).any(dim=1)], dim=0)
        assert {tuple(kind) for kind in kinds.tolist()} <= wanted
        negative = gradient[sets == 0]
        assert (negative >= 0).all() and (negative > 0).any()
    found = torch.cat([sets for _, sets in calls])
    assert wanted <= {tuple(kind) for kind in torch.unique(found, dim=0).tolist()}
    if 'DETR' in head:  # no denoising queries
        assert [int((sets == 1).any(dim=1).sum()) for _, sets in calls] == [2] * len(calls)


@pytest.mark.parametrize('head', CONFIGS)
def test_excused_and_unverified_classes_get_no_gradient(head):
    rates = np.zeros((CLASSES, CLASSES))
    rates[GIRL, CHAIR] = rates[CHAIR, GIRL] = 1.0
    model = label_set_detector(head, rates=rates, unverified='ignore')
    images, samples = single_labels()
    verified = [GIRL, PERSON, CHAIR], [CHAIR]
    for sample, classes in zip(samples, verified):
        sample.gt_instances.set_metainfo(dict(verified_classes=np.array(classes)))
    with_boxes = recorded_step(model, (images, [samples[0], samples[0]]))
    for gradient, sets in with_boxes:
        girl, chair = sets[:, GIRL] == 1, sets[:, CHAIR] == 1
        assert (gradient[:, WOMAN] == 0).all() and (gradient[~girl & ~chair][:, [GIRL, PERSON, CHAIR]] > 0).any()
        assert (gradient[girl, CHAIR] == 0).all() and (gradient[chair, GIRL] == 0).all()
    assert any((sets[:, GIRL] == 1).any() for _, sets in with_boxes)
    for gradient, sets in recorded_step(model, (images, samples)):
        of_second = (sets == torch.tensor([-1, -1, -1, 0])).all(dim=1)
        assert of_second.sum() > 0 and (gradient[of_second][:, [GIRL, WOMAN, PERSON]] == 0).all()
        assert (gradient[of_second][:, CHAIR] > 0).any()


@pytest.mark.parametrize('head', CONFIGS)
def test_detections_count_for_the_ancestors_of_their_class(head):
    model = label_set_detector(head, hierarchy=ANCESTORS).eval()
    model.bbox_head.test_cfg.update(score_thr=0.0, max_per_img=50)
    for conv in getattr(model.bbox_head, 'rtm_reg', ()):
        conv.bias.data.fill_(1.0)  # or all boxes are empty
    images, samples = batch()
    found = {}
    for adds in (False, True):
        model.bbox_head.add_ancestors = adds
        found[adds] = model.predict(images, copy.deepcopy(samples))[0].pred_instances
    assert len(found[False]) and len(found[True])
    best = {adds: [found[adds].scores[found[adds].labels == label].max() for label in (GIRL, PERSON)] for adds in found}
    assert best[True][1] >= best[True][0] == best[False][0]


@pytest.mark.parametrize('head', ['DeformableDETRHead', 'DINOHead'])
def test_a_head_of_queries_keeps_the_rates_of_the_config(head):
    ours = label_set_detector(head, rates=np.full((CLASSES, CLASSES), 0.25))
    other = label_set_detector(head, rates=np.full((CLASSES, CLASSES), 0.5))
    ours.load_state_dict(other.state_dict())  # load_from
    assert ours.bbox_head.loss_cls.rates[0, 1] == 0.25


def test_a_loss_that_has_no_label_sets_is_refused():
    model = small_config('RetinaHead')
    model.bbox_head.type = 'mmoid.LabelSetRetinaHead'
    with pytest.raises(ValueError, match=r'bbox_head\.loss_cls\.type = FocalLoss: .* needs mmoid\.ConcurrentFocalLoss'):
        MODELS.build(model)


def test_two_stage_deformable_detr_is_refused():
    with pytest.raises(ValueError, match='Use LabelSetDINOHead'):
        MODELS.build({'type': 'mmoid.LabelSetDeformableDETRHead', 'num_classes': 4, 'as_two_stage': True})
