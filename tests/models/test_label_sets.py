"""Label sets from ground truth to the loss, in real mmdet heads, and which classes a model has."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.models.task_modules.assigners import AssignResult
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

import mmoid
from mmoid.models.label_sets import with_ancestors
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.statistics.concurrent_rates import save_rates
from mmoid.openimages.statistics.objects import object_of_box
from tests.models.test_detectors import ANCESTORS
from tests.official_files import LABEL_NAMES, write_files

BOXES = torch.tensor([[0.0, 0, 100, 100], [1, 0, 100, 100], [0, 0, 100, 50], [200, 200, 240, 260]])
LABELS = torch.tensor([0, 1, 3, 3])


def sampler(**kwargs):
    inner = dict(type='mmdet.RandomSampler', num=16, pos_fraction=0.5)
    return TASK_UTILS.build(
        dict(type='mmoid.LabelSetSampler', sampler=inner, num_classes=4, hierarchy=ANCESTORS, ancestors=True) | kwargs
    )


def head(**kwargs):
    config = dict(
        type='mmoid.LabelSetBBoxHead',
        in_channels=8,
        fc_out_channels=16,
        roi_feat_size=3,
        num_classes=4,
        bbox_coder=dict(type='mmdet.DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='mmoid.ConcurrentSoftmaxLoss', num_classes=4),
        loss_bbox=dict(type='mmdet.L1Loss'),
    )
    return MODELS.build({**config, **kwargs})


def sample(boxes=BOXES, labels=LABELS, **kwargs):
    truth = InstanceData(bboxes=HorizontalBoxes(boxes), labels=labels)
    priors = torch.cat([boxes + 2.0, torch.tensor([[300.0, 300, 350, 350]] * 4)])
    assigned = torch.cat([torch.arange(len(boxes)) + 1, torch.zeros(4, dtype=torch.long)])
    found = torch.cat([labels, torch.full((4,), -1)])
    result = AssignResult(len(boxes), assigned, torch.ones(len(priors)), found)
    torch.manual_seed(0)
    return sampler(**kwargs).sample(result, InstanceData(priors=HorizontalBoxes(priors)), truth)


def names(row):
    return set(row.nonzero().flatten().tolist())


def test_the_labels_of_boxes_on_one_object_are_united_with_their_ancestors():
    sets = sampler().label_sets(torch.cat([BOXES, torch.full((1, 4), 5.0)]), torch.cat([LABELS, LABELS[-1:]]))
    assert [names(row) for row in sets] == [{0, 1, 2}, {0, 1, 2}, {3}, {3}, {3}], 'an empty box keeps its own label'
    assert names(sampler(ancestors=False).label_sets(BOXES, LABELS)[0]) == {0, 1}


def test_every_positive_gets_the_set_of_the_box_it_is_assigned_to():
    result = sample()
    expected = sampler().label_sets(BOXES, LABELS)[result.pos_assigned_gt_inds]
    assert torch.equal(result.pos_gt_label_sets, expected)
    assert torch.equal(result.pos_gt_labels, LABELS[result.pos_assigned_gt_inds])


def run(box_head, results):
    count = sum(len(result.priors) for result in results)
    torch.manual_seed(1)
    features = torch.randn(count, 8, 3, 3)
    indexed = [torch.cat([torch.full((len(r.priors), 1), float(i)), r.priors.tensor], 1) for i, r in enumerate(results)]
    rois = torch.cat(indexed)
    cls_score, bbox_pred = box_head(features)
    config = type('C', (), {'pos_weight': -1})
    for result in results:  # heads meet tensors: RoI heads convert boxes before
        result.pos_priors, result.neg_priors = result.pos_priors.tensor, result.neg_priors.tensor
        result.pos_gt_bboxes = torch.as_tensor(getattr(result.pos_gt_bboxes, 'tensor', result.pos_gt_bboxes))
    return cls_score, bbox_pred, rois, box_head.loss_and_target(cls_score, bbox_pred, rois, results, config)


def test_the_loss_gets_label_sets_and_cascade_gets_single_labels():
    results = [sample(), sample(BOXES[:0], LABELS[:0])]
    box_head = head()
    cls_score, _, _, out = run(box_head, results)
    sets = box_head.label_sets(results)
    labels, weights, *_ = out['bbox_targets']
    assert labels.dim() == 1 and sets.shape == (len(labels), 4)
    assert torch.equal(sets.any(1), labels < 4)
    assert sets[torch.arange(len(labels))[labels < 4], labels[labels < 4]].all()
    expected = box_head.loss_cls(cls_score, sets, weights, avg_factor=len(labels))
    assert torch.allclose(out['loss_bbox']['loss_cls'], expected)
    assert 'acc' in out['loss_bbox']


def test_every_label_of_the_set_regresses():
    results = [sample()]
    box_head = head()
    cls_score, bbox_pred, rois, out = run(box_head, results)
    sets = box_head.label_sets(results)
    _, _, targets, _ = out['bbox_targets']
    expected = sum(
        (bbox_pred.view(len(sets), 4, 4)[n, c] - targets[n]).abs().sum() for n, c in sets.nonzero().tolist()
    ) / len(sets)
    assert torch.allclose(out['loss_bbox']['loss_bbox'], expected)
    gradient = torch.autograd.grad(out['loss_bbox']['loss_bbox'], box_head.fc_reg.bias)[0].view(4, 4)
    # No ground truth is labelled Person (2): it learns from the boxes of its children.
    assert gradient.abs().sum(1).bool().tolist() == [True, True, True, True]


def test_class_agnostic_regression_counts_an_object_once():
    results = [sample()]
    box_head = head(reg_class_agnostic=True)
    _, bbox_pred, _, out = run(box_head, results)
    labels, _, targets, _ = out['bbox_targets']
    expected = (bbox_pred - targets)[labels < 4].abs().sum() / len(labels)
    assert torch.allclose(out['loss_bbox']['loss_bbox'], expected)


def test_decoded_boxes_can_be_regressed():
    *_, out = run(head(reg_decoded_bbox=True, loss_bbox=dict(type='mmdet.IoULoss')), [sample()])
    assert out['loss_bbox']['loss_bbox'].isfinite()


def test_only_background_gives_a_zero_that_can_be_differentiated():
    results = [sample(BOXES[:0], LABELS[:0])]
    assert results[0].pos_gt_label_sets.shape == (0, 4)
    *_, out = run(head(), results)
    assert out['loss_bbox']['loss_bbox'] == 0
    sum(value for key, value in out['loss_bbox'].items() if 'loss' in key).backward()


@pytest.mark.parametrize('loss_type', ['mmdet.CrossEntropyLoss', 'mmoid.SoftmaxLoss'])
def test_a_loss_of_one_label_receives_one_label(loss_type):
    results = [sample()]
    box_head = head(loss_cls=dict(type=loss_type, use_sigmoid=False))
    cls_score, _, _, out = run(box_head, results)
    labels = out['bbox_targets'][0]
    assert torch.allclose(out['loss_bbox']['loss_cls'], torch.nn.functional.cross_entropy(cls_score, labels))


@pytest.mark.parametrize('loss_type', ['SoftmaxLoss', 'DistCELoss', 'LabelSetFocalLoss', 'ConcurrentSoftmaxLoss'])
def test_the_type_alone_swaps_the_loss_and_the_sampler_reads_the_hierarchy_from_the_head(loss_type):
    rates = np.zeros((4, 4), dtype=np.float32)
    box_head = head(
        loss_cls=dict(type=f'mmoid.{loss_type}', concurrent_rates=rates, hierarchy=ANCESTORS, hierarchy_rate=0.5)
    )
    assert type(box_head.loss_cls).__name__ == loss_type and box_head.loss_cls.num_classes == 4
    if loss_type == 'ConcurrentSoftmaxLoss':
        assert box_head.loss_cls.rates[0, 2] == 0.5
    ours = sampler(num_classes=None, hierarchy=None, context=SimpleNamespace(bbox_head=box_head))
    assert names(ours.label_sets(BOXES[:1], LABELS[:1])[0]) == {0, 2}
    with pytest.raises(TypeError, match='hierachy'):
        head(loss_cls=dict(type=f'mmoid.{loss_type}', hierachy=ANCESTORS))


def test_the_type_of_the_wrapped_sampler_gets_the_other_keys_and_none_is_a_warning(monkeypatch):
    messages = []
    monkeypatch.setattr('mmoid.models.roi_heads.print_log', lambda text, *_: messages.append(text))
    arguments = dict(num=16, pos_fraction=0.5, num_classes=4)
    for wrapped in ('mmdet.RandomSampler', RandomSampler, None):
        plain = TASK_UTILS.build(dict(type='mmoid.LabelSetSampler', sampler=wrapped, **arguments))
        assert (plain.sampler.num, plain.sampler.pos_fraction, plain.sampler.add_gt_as_proposals) == (16, 0.5, True)
        assert any('sampling at random' in text for text in messages) == (wrapped is None)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(same_object_iou=0), r'\.same_object_iou must be in \(0, 1\], got 0'),
        (dict(hierarchy='nowhere'), r'\.hierarchy = nowhere: no such store or file'),
        (dict(hierarchy=None), r'\.ancestors=True needs a hierarchy'),
        (dict(sampler=None), ' needs either num'),
        (dict(num=16), ' needs either num'),
        (dict(num_classes=None), r'\.num_classes is needed'),
    ],
)
def test_bad_settings_of_the_sampler_are_refused(settings, message):
    with pytest.raises(ValueError, match=rf'rcnn\.sampler{message}'):
        sampler(**settings).label_sets(BOXES, LABELS)


@pytest.mark.parametrize('loss_type', ['mmdet.CrossEntropyLoss', 'mmoid.ConcurrentSoftmaxLoss'])
def test_an_empty_box_is_no_target(loss_type):
    """As a proposal it would be assigned to itself, with offsets that are not finite."""
    boxes, labels = torch.cat([BOXES, torch.tensor([[5.0, 5, 5, 40]])]), torch.tensor([0, 1, 3, 3, 2])
    result = sample(boxes, labels)
    assert 4 in result.pos_assigned_gt_inds
    box_head = head(loss_cls=dict(type=loss_type))
    *_, out = run(box_head, [result])
    _, label_weights, targets, weights = out['bbox_targets']
    empty = torch.nonzero(result.pos_assigned_gt_inds == 4).flatten()
    assert not label_weights[empty].any() and not weights[empty].any() and targets.isfinite().all()
    assert label_weights.sum() == len(label_weights) - len(empty)
    assert all(value.isfinite() for key, value in out['loss_bbox'].items() if 'loss' in key)


def test_a_stock_sampler_is_told_to_be_wrapped():
    result = sample()
    del result.pos_gt_label_sets
    with pytest.raises(ValueError, match=r'ConcurrentSoftmaxLoss needs label sets: set train_cfg\.rcnn\.sampler'):
        run(head(), [result])


def test_nms_after_adding_ancestors_is_only_for_classes_that_get_boxes():
    """Else soft-NMS and detectors without NMS would lose their overlapping boxes of all classes."""
    box = torch.tensor([[0.0, 0, 50, 50], [4, 0, 54, 50]])
    found = InstanceData(bboxes=box.repeat(2, 1), scores=torch.tensor([0.9, 0.8, 0.7, 0.6]))
    found.labels = torch.tensor([3, 3, 0, 2])  # 2 is the parent of 0
    for matrix in (torch.from_numpy(ANCESTORS), torch.from_numpy(ANCESTORS).to_sparse()):
        result = with_ancestors(found, matrix, 0.5)
        assert result.labels[:2].tolist() == [3, 3] and sorted(result.labels[2:].tolist()) == [0, 2]
        assert torch.equal(result.scores, torch.tensor([0.9, 0.8, 0.7, 0.7]))


PART = ('Fruit', 'Orange')


@pytest.fixture
def store(tmp_path):
    convert(tmp_path / 'store', **write_files(tmp_path / 'official'))
    save_rates(tmp_path / 'rates.npz', np.arange(25).reshape(5, 5) / 25, tuple(LABEL_NAMES))
    return tmp_path / 'store'


@pytest.mark.parametrize('seed', range(10))
def test_label_sets_are_those_of_connected_boxes_and_their_ancestors(seed):
    rng = np.random.default_rng(seed)
    classes, count, iou = int(rng.integers(1, 9)), int(rng.integers(1, 12)), float(rng.choice([0.5, 0.9]))
    ancestors = np.triu(rng.random((classes, classes)) < 0.4, 1)
    for middle in range(classes):  # a closure has the ancestors of ancestors
        ancestors |= ancestors[:, middle : middle + 1] & ancestors[middle]
    low = rng.integers(0, 9, (count, 2))
    boxes = np.concatenate([low, low + rng.integers(8, 12, (count, 2))], axis=1).astype(np.float32)
    labels = rng.integers(0, classes, count)
    group = object_of_box(boxes, np.array([count]), np.zeros(count), iou)
    expected = []
    for box in range(count):
        found = set(labels[group == group[box]].tolist())
        expected.append(found | {j for i in found for j in np.flatnonzero(ancestors[i]).tolist()})
    ours = sampler(num_classes=classes, hierarchy=ancestors, same_object_iou=iou)
    sets = ours.label_sets(torch.from_numpy(boxes), torch.from_numpy(labels))
    assert [set(row.nonzero().flatten().tolist()) for row in sets] == expected


def test_sampler_and_loss_have_the_same_part_of_the_classes_in_the_same_order(store):
    ours = sampler(num_classes=2, hierarchy=str(store), classes=PART)
    sets = ours.label_sets(torch.tensor([[0.0, 0, 9, 9], [20, 0, 29, 9]]), torch.tensor([0, 1]))
    assert sets.tolist() == [[True, False], [True, True]]  # an Orange, class 1, is a Fruit, class 0
    rates = str(store.parent / 'rates.npz')
    loss = mmoid.ConcurrentSoftmaxLoss(2, rates, hierarchy=str(store), hierarchy_rate=0.5, classes=PART)
    assert loss.label_names == ('/m/fruit', '/m/orange')
    assert loss.rates.tolist() == [[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]]


def test_a_part_of_the_classes_by_mid_needs_no_store(store):
    loss = mmoid.ConcurrentSoftmaxLoss(2, str(store.parent / 'rates.npz'), classes=['/m/bench1', '/m/apple'])
    assert loss.rates[0, 1].item() == pytest.approx(15 / 25) and loss.rates[1, 0].item() == pytest.approx(3 / 25)


@pytest.mark.parametrize(
    ('classes', 'hierarchy', 'message'),
    [
        ('Fruit', True, r"loss_cls\.classes: expects a list of names or MIDs, got 'Fruit'"),
        (['Fruit', '/m/fruit'], True, r"loss_cls\.classes: class '/m/fruit' occurs twice"),
        (['Fruit', 'Pear'], True, r"loss_cls\.classes: 'Pear' is not a class of "),
        (['Pear'], False, r"loss_cls\.classes: 'Pear' is not a MID; a display name needs a store"),
        (None, True, r'loss_cls\.hierarchy: is for 5 classes, num_classes is 1; .* classes = '),
    ],
)
def test_bad_class_lists_are_refused(store, classes, hierarchy, message):
    with pytest.raises(ValueError, match=message):
        mmoid.ConcurrentSoftmaxLoss(len(classes or 'x'), hierarchy=str(store) if hierarchy else None, classes=classes)
