"""SoftBalanceClassAwareSampler."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from mmdet.datasets.samplers import AspectRatioBatchSampler, ClassAwareSampler

import mmoid
from mmoid.datasets import samplers
from mmoid.openimages.balance import class_probabilities


def sampler(data, rank=0, world_size=1, monkeypatch=None, **kwargs):
    if monkeypatch is not None:
        monkeypatch.setattr(samplers, 'get_dist_info', lambda: (rank, world_size))
    return mmoid.SoftBalanceClassAwareSampler(data, **{'seed': 0, **kwargs})


@pytest.fixture(scope='module')
def data(tiny_data):
    return mmoid.OpenImagesHierarchyDataset(str(tiny_data / 'train'), filter_cfg=dict(filter_empty_gt=True))


@pytest.mark.parametrize('balance', [0, 0.7, 1.5])
def test_images_come_with_the_frequency_that_eq_8_gives_them(data, balance):
    drawn = sampler(data, balance=balance)
    expected = np.zeros(len(data))
    for label, probability in enumerate(class_probabilities(data.class_image_counts(), balance)):
        images = data.image_indices_of_class(label)
        expected[images] += probability / max(1, len(images))
    epochs = 400
    counts = Counter()
    for epoch in range(epochs):
        drawn.set_epoch(epoch)
        counts.update(drawn)
    share = np.array([counts[i] for i in range(len(data))]) / (epochs * len(drawn))
    # Each class's share is off by less than a draw an epoch, each image's by one in all.
    assert np.abs(share - expected).max() < 2e-3


def test_ranks_are_disjoint_and_together_the_whole_epoch(data, monkeypatch):
    whole = list(sampler(data))
    parts = [list(sampler(data, rank, 3, monkeypatch)) for rank in range(3)]
    assert len({len(part) for part in parts}) == 1
    merged = [index for step in zip(*parts) for index in step]
    assert merged[: len(whole)] == whole
    assert merged[len(whole) :] == whole[: len(merged) - len(whole)]


def test_the_series_depends_on_seed_and_epoch_alone(data):
    one, other = sampler(data), sampler(data)
    one.set_epoch(3)
    other.set_epoch(1)
    list(other)
    other.set_epoch(3)
    assert list(one) == list(other) == list(one)
    assert list(sampler(data, seed=1)) != list(sampler(data, seed=0))


def test_samples_per_epoch(data, monkeypatch):
    drawn = sampler(data, 0, 2, monkeypatch, samples_per_epoch=11)
    assert len(drawn) == 6 == len(list(drawn))


def test_without_expansion_classes_are_drawn_as_annotated(data):
    drawn = sampler(data, balance=1.0, expand_hierarchy=False)
    assert (drawn.draws.image_counts == data.class_image_counts(expand_hierarchy=False)).all()


def test_any_other_data_set_is_asked_for_its_classes():
    labels = [[0, 0], [1], [], [0, 2]]
    data = SimpleNamespace(get_cat_ids=labels.__getitem__)

    class Foreign:
        def __len__(self):
            return 4

        get_cat_ids = staticmethod(data.get_cat_ids)

    drawn = sampler(Foreign(), balance=1.0, samples_per_epoch=30)
    assert drawn.draws.image_counts.tolist() == [2, 1, 1]
    assert Counter(drawn) == {0: 5, 1: 10, 3: 15}


def test_lambda_1_has_the_class_frequencies_of_mmdets_class_aware_sampler(data):
    ours = sampler(data, balance=1.0, expand_hierarchy=False)
    theirs = ClassAwareSampler(data, seed=0)
    present = [label for label, images in theirs.cat_dict.items() if images]
    assert np.flatnonzero(ours.draws.per_class(0)).tolist() == sorted(present)
    counts = ours.draws.per_class_before(100)[sorted(present)]
    assert counts.max() - counts.min() <= 100  # all alike


def test_batches_of_one_orientation(data):
    batches = list(AspectRatioBatchSampler(sampler(data), batch_size=4))
    for batch in batches[:-1]:
        sizes = [data.get_data_info(i) for i in batch]
        assert len({item['width'] < item['height'] for item in sizes}) == 1 or batch in batches[-2:]


@pytest.mark.parametrize('balance', [-1, float('nan')])
def test_a_bad_lambda_names_its_key(data, balance):
    with pytest.raises(ValueError, match=rf'sampler\.balance \(λ\) must be >= 0, got {balance}'):
        sampler(data, balance=balance)


def test_a_bad_length_names_its_key(data):
    with pytest.raises(ValueError, match=r'sampler\.samples_per_epoch must be at least 1, got 0'):
        sampler(data, samples_per_epoch=0)
