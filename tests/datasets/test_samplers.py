"""SoftBalanceClassAwareSampler."""

from collections import Counter

import numpy as np
import pytest
from mmdet.datasets.samplers import AspectRatioBatchSampler, ClassAwareSampler
from torch.utils.data import DataLoader

import mmoid
from mmoid.datasets import samplers
from mmoid.openimages.ragged import row_and_position
from mmoid.openimages.sampling.soft_balance import class_probabilities
from tests.real_stores import fruit, train_sample

LAMBDAS = [0, 0.3, 0.5, 0.7, 1.0, 1.5]


def dataset(store):
    return mmoid.OpenImagesHierarchyDataset(str(store), filter_cfg=dict(filter_empty_gt=True))


def sampler(data, rank=0, world_size=1, monkeypatch=None, **kwargs):
    if monkeypatch is not None:
        monkeypatch.setattr(samplers, 'get_dist_info', lambda: (rank, world_size))
    return mmoid.SoftBalanceClassAwareSampler(data, **{'seed': 0, **kwargs})


def drawn_images(drawn, epochs, size):
    """(size,) how often each image comes in so many epochs."""
    counts = np.zeros(size, dtype=np.int64)
    for epoch in range(epochs):
        drawn.set_epoch(epoch)
        counts += np.bincount(list(drawn), minlength=size)
    return counts


def spread(data, per_class):
    """(N,) sum over the classes of each image of what each of a class's n_i images gets of ``per_class``."""
    stop, images = data.class_images()
    label, _ = row_and_position(np.diff(stop, prepend=0))
    share = per_class / np.maximum(1, data.class_image_counts())
    return np.bincount(images, weights=share[label], minlength=len(data))


@pytest.fixture(scope='module')
def data(tiny_data):
    return dataset(tiny_data / 'train')


@pytest.fixture(scope='module')
def real_data(tmp_path_factory):
    return dataset(train_sample(tmp_path_factory.mktemp('real') / 'sample'))


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    return dataset(fruit(tmp_path_factory.mktemp('real') / 'fruit'))


@pytest.mark.parametrize('balance', LAMBDAS)
@pytest.mark.parametrize('kind', ['data', 'real_data'])
def test_classes_and_images_come_as_often_as_eq_8_says(kind, balance, request):
    data = request.getfixturevalue(kind)
    drawn = sampler(data, balance=balance)
    epochs = 30
    expected = epochs * len(data) * class_probabilities(data.class_image_counts(), balance)
    draws = drawn.draws.per_class_before(epochs)
    # A series of independent draws would be off by sqrt(expected): by hundreds for the frequent classes here.
    assert np.abs(draws - expected).max() < 4
    counts = drawn_images(drawn, epochs, len(data))
    assert counts.sum() == epochs * len(data)
    # Of the draws of a class each of its images gets the same number, or one more.
    _, images = data.class_images()
    classes_of_image = np.bincount(images, minlength=len(data))
    assert (np.abs(counts - spread(data, draws)) < classes_of_image).all()


@pytest.mark.parametrize('world_size', [1, 3, 8])
@pytest.mark.parametrize('samples_per_epoch', [None, 17])
def test_ranks_are_disjoint_and_together_the_whole_epoch(data, monkeypatch, world_size, samples_per_epoch):
    whole = list(sampler(data, samples_per_epoch=samples_per_epoch))
    assert len(whole) == samples_per_epoch or len(data)
    parts = [
        list(sampler(data, rank, world_size, monkeypatch, samples_per_epoch=samples_per_epoch))
        for rank in range(world_size)
    ]
    assert len({len(part) for part in parts}) == 1
    merged = [index for step in zip(*parts) for index in step]
    assert merged[: len(whole)] == whole
    assert merged[len(whole) :] == whole[: len(merged) - len(whole)]


@pytest.mark.parametrize('balance', [0, 0.7, 1.5])
def test_all_images_of_a_class_come_before_one_comes_again_across_epochs(real_data, balance):
    drawn = sampler(real_data, balance=balance, samples_per_epoch=9973)
    series = [[] for _ in real_data.metainfo['classes']]
    for epoch in range(5):
        drawn.set_epoch(epoch)
        for label, image in zip(drawn.draws.epoch(epoch)[0], drawn):
            series[label].append(image)
    for label, images in enumerate(series):
        members = real_data.image_indices_of_class(label).tolist()
        for start in range(0, len(images), max(1, len(members))):
            walk = images[start : start + len(members)]
            assert len(set(walk)) == len(walk) and set(walk) <= set(members)
    assert any(len(images) > 2 * n > 10 for images, n in zip(series, real_data.class_image_counts()))


def test_a_sampler_that_is_first_used_later_begins_its_series_then(real_data):
    late = sampler(real_data, balance=0.7, samples_per_epoch=9973)
    late.begin_at(14)
    first = sampler(real_data, balance=0.7, samples_per_epoch=9973, seed=14)
    counts = [Counter() for _ in real_data.metainfo['classes']]
    for epoch in range(3):
        late.set_epoch(14 + epoch)
        first.set_epoch(epoch)
        assert list(late) == list(first)
        for label, image in zip(late.draws.epoch(epoch)[0], late):
            counts[label][image] += 1
    for count, n in zip(counts, real_data.class_image_counts()):
        seen = [*count.values(), *[0] * (n - len(count))]  # no image a second time before all came once
        assert not seen or max(seen) - min(seen) <= 1


def test_the_series_depends_on_seed_and_epoch_alone(data):
    one, other = sampler(data), sampler(data)
    one.set_epoch(3)
    other.set_epoch(1)
    list(other)
    other.set_epoch(3)
    assert list(one) == list(other) == list(one)
    assert list(sampler(data, seed=1)) != list(sampler(data, seed=0))


class Indices:
    """A data set whose items are their indices."""

    def __init__(self, data):
        self.size, self.class_images = len(data), data.class_images

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return index


def test_the_number_of_workers_does_not_matter(data):
    items = Indices(data)
    loader = DataLoader(items, batch_size=5, sampler=sampler(items), num_workers=2, persistent_workers=True)
    for epoch in (0, 4):
        loader.sampler.set_epoch(epoch)
        expected = sampler(items)
        expected.set_epoch(epoch)
        assert [int(index) for batch in loader for index in batch] == list(expected)


def test_without_expansion_classes_are_drawn_as_annotated(data):
    drawn = sampler(data, balance=1.0, expand_hierarchy=False)
    assert (drawn.draws.image_counts == data.class_image_counts(expand_hierarchy=False)).all()


class OneClassEach:
    """Images that hold one class each, so that the class of a draw can be told from its image."""

    def __init__(self, image_counts):
        self.labels = np.repeat(np.arange(len(image_counts)), image_counts).tolist()
        self.metainfo = dict(classes=[f'class {i}' for i in range(len(image_counts))])

    def __len__(self):
        return len(self.labels)

    def get_cat_ids(self, index):
        return [self.labels[index]]


def test_lambda_1_draws_classes_as_mmdets_class_aware_sampler_does():
    data = OneClassEach([700, 90, 0, 14, 3])
    for epoch in range(5):
        counts = []
        for drawn in (sampler(data, balance=1.0), ClassAwareSampler(data, seed=0)):
            drawn.set_epoch(epoch)
            counts.append(np.bincount([data.labels[index] for index in drawn], minlength=5))
        each = len(data) / 4
        assert all((np.abs(count[[0, 1, 3, 4]] - each) < 1).all() and count[2] == 0 for count in counts)


@pytest.mark.parametrize('world_size', [1, 3])
def test_batches_of_one_orientation(photographs, monkeypatch, world_size):
    batch_size, handed_out = 4, []
    for rank in range(world_size):
        drawn = sampler(photographs, rank, world_size, monkeypatch)
        batches = list(AspectRatioBatchSampler(drawn, batch_size))
        assert sorted(index for batch in batches for index in batch) == sorted(drawn)
        upright = [{info['width'] < info['height'] for info in map(photographs.get_data_info, b)} for b in batches]
        # What is left of both kinds at the end shares the last batches.
        mixed = [position for position, kinds in enumerate(upright) if len(kinds) == 2]
        assert all(position >= len(batches) - 2 for position in mixed)
        assert {True} in upright and {False} in upright
        assert all(len(batch) == batch_size for batch in batches[:-1])
        handed_out += [index for batch in batches for index in batch]
    whole = Counter(sampler(photographs, 0, 1, monkeypatch))
    assert whole <= Counter(handed_out) and len(handed_out) - sum(whole.values()) < world_size


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(balance=-1), r'sampler\.balance \(λ\) must be >= 0, got -1'),
        (dict(balance=float('nan')), r'sampler\.balance \(λ\) must be >= 0, got nan'),
        (dict(samples_per_epoch=0), r'sampler\.samples_per_epoch must be an integer of at least 1, got 0'),
        (dict(samples_per_epoch=10.5), r'sampler\.samples_per_epoch must be an integer of at least 1, got 10\.5'),
        (dict(shuffle=False), r'sampler\.shuffle must be True'),
    ],
)
def test_bad_options_name_their_key(data, options, message):
    with pytest.raises(ValueError, match=message):
        sampler(data, **options)
