"""Which classes a model has: ancestors, a part of a store's classes, files that are not there."""

import numpy as np
import pytest
import torch
from mmdet.registry import TASK_UTILS

import mmoid
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.statistics.concurrent_rates import save_rates
from mmoid.openimages.statistics.objects import object_of_box
from tests.official_files import LABEL_NAMES, write_files

PART = ('Fruit', 'Orange')


@pytest.fixture
def store(tmp_path):
    convert(tmp_path / 'store', **write_files(tmp_path / 'official'))
    save_rates(tmp_path / 'rates.npz', np.arange(25).reshape(5, 5) / 25, tuple(LABEL_NAMES))
    return tmp_path / 'store'


def sampler(**kwargs):
    inner = dict(type='mmdet.RandomSampler', num=4, pos_fraction=0.5)
    return TASK_UTILS.build(dict(type='mmoid.LabelSetSampler', sampler=inner, ancestors=True, **kwargs))


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
