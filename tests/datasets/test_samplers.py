"""SoftBalanceClassAwareSampler, and the image lists of any data set, also inside wrappers."""

from collections import Counter

import numpy as np
import pytest
from mmdet.datasets import BaseDetDataset, MultiImageMixDataset
from mmdet.datasets import ConcatDataset as MMDetConcatDataset
from mmdet.datasets.samplers import AspectRatioBatchSampler, ClassAwareSampler
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.runner.runner import _SlicedDataset
from torch.utils.data import ConcatDataset as TorchConcatDataset
from torch.utils.data import Subset

import mmoid
from mmoid.datasets import samplers
from mmoid.datasets.samplers import class_image_lists
from tests.box_stores import make_store
from tests.real_stores import sample


def dataset(store):
    return mmoid.OpenImagesHierarchyDataset(str(store), filter_cfg=dict(filter_empty_gt=True))


def sampler(data, rank=0, world_size=1, monkeypatch=None, **kwargs):
    if monkeypatch is not None:
        monkeypatch.setattr(samplers, 'get_dist_info', lambda: (rank, world_size))
    return mmoid.SoftBalanceClassAwareSampler(data, **{'seed': 0, **kwargs})


def lists(dataset, expand=True):
    """One list of images for each class."""
    stop, images = class_image_lists(dataset, expand)
    return [sorted(part.tolist()) for part in np.split(images, stop[:-1])]


@pytest.fixture(scope='module')
def data(tiny_data):
    return dataset(tiny_data / 'train')


class Foreign:
    """A data set that only knows the labels of its items, which are their indices."""

    def __init__(self, labels, classes=None):
        self.labels = labels
        if classes:
            self.metainfo = dict(classes=classes)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return index

    def get_cat_ids(self, index):
        return self.labels[index]


@pytest.mark.parametrize('world_size', [1, 3, 8])
@pytest.mark.parametrize('samples_per_epoch', [None, 17])
def test_ranks_are_disjoint_and_together_the_whole_epoch(data, monkeypatch, world_size, samples_per_epoch):
    whole = list(sampler(data, samples_per_epoch=samples_per_epoch))
    assert len(whole) == (samples_per_epoch or len(data))
    parts = [
        list(sampler(data, rank, world_size, monkeypatch, samples_per_epoch=samples_per_epoch))
        for rank in range(world_size)
    ]
    assert len({len(part) for part in parts}) == 1
    merged = [index for step in zip(*parts) for index in step]
    assert merged[: len(whole)] == whole
    assert merged[len(whole) :] == whole[: len(merged) - len(whole)]


def test_a_sampler_that_is_first_used_later_begins_its_series_then(data):
    late = sampler(data, balance=0.7, samples_per_epoch=997)
    late.begin_at(14)
    first = sampler(data, balance=0.7, samples_per_epoch=997, seed=14)
    counts = [Counter() for _ in data.metainfo['classes']]
    for epoch in range(3):
        late.set_epoch(14 + epoch)
        first.set_epoch(epoch)
        assert list(late) == list(first)
        for label, image in zip(late.draws.epoch(epoch)[0], late):
            counts[label][image] += 1
    for count, members in zip(counts, lists(data)):
        assert set(count) <= set(members)
        seen = [count[image] for image in members]  # no image a second time before all came once
        assert not seen or max(seen) - min(seen) <= 1


def test_lambda_1_draws_classes_as_mmdets_class_aware_sampler_does():
    labels = np.repeat([0, 1, 3, 4], [700, 90, 14, 3])
    data = Foreign([[label] for label in labels.tolist()], 'abcde')
    for epoch in range(5):
        for drawn in (sampler(data, balance=1.0), ClassAwareSampler(data, seed=0)):
            drawn.set_epoch(epoch)
            counts = np.bincount(labels[list(drawn)], minlength=5)
            assert (np.abs(counts[[0, 1, 3, 4]] - len(data) / 4) < 1).all() and counts[2] == 0


@pytest.mark.parametrize('world_size', [1, 3])
def test_batches_of_one_orientation(tmp_path, monkeypatch, world_size):
    photographs = dataset(sample(tmp_path))
    batch_size, handed_out = 4, []
    for rank in range(world_size):
        drawn = sampler(photographs, rank, world_size, monkeypatch)
        batches = list(AspectRatioBatchSampler(drawn, batch_size))
        assert sorted(index for batch in batches for index in batch) == sorted(drawn)
        upright = [{info['width'] < info['height'] for info in map(photographs.get_data_info, b)} for b in batches]
        # What is left of both kinds at the end shares the last batches.
        assert all(position >= len(batches) - 2 for position, kinds in enumerate(upright) if len(kinds) == 2)
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


@pytest.mark.parametrize('expand', [True, False])
@pytest.mark.parametrize(
    'wrap',
    [
        lambda data: data,
        lambda data: ConcatDataset([data, data.get_subset([5, 3, 3]), data.get_subset(4)]),
        lambda data: MMDetConcatDataset([data.get_subset([9, 8]), data]),
        lambda data: ClassBalancedDataset(data, oversample_thr=0.4),
        lambda data: MultiImageMixDataset(data, pipeline=[]),
    ],
)
def test_wrapped_data_sets_have_the_lists_that_asking_for_each_item_gives(data, wrap, expand):
    wrapped = wrap(data)
    expected = [[] for _ in data.metainfo['classes']]
    for index in range(len(wrapped)):
        labels = {instance['bbox_label'] for instance in wrapped.get_data_info(index)['instances']}
        ancestors = (data.hierarchy.ancestors(label).tolist() for label in labels if expand)
        for label in labels.union(*ancestors):
            expected[label].append(index)
    assert lists(wrapped, expand) == expected
    counts = sampler(wrapped, expand_hierarchy=expand).draws.image_counts
    assert counts.tolist() == [len(images) for images in expected]


def test_no_item_is_asked_for_its_labels_inside_wrappers(data, monkeypatch):
    wrapped = [ConcatDataset([data, data]), ClassBalancedDataset(data, oversample_thr=0.4), RepeatDataset(data, 2)]

    def refuse(self, index):
        raise AssertionError('a loop over images')

    monkeypatch.setattr(type(data), 'get_cat_ids', refuse)
    monkeypatch.setattr(type(data), 'get_data_info', refuse)
    for dataset in wrapped:
        assert list(sampler(dataset))


def test_a_repeated_data_set_has_longer_epochs_and_the_lists_of_the_one_inside(data):
    drawn = sampler(RepeatDataset(data, 3))
    assert len(drawn) == 3 * len(data)
    assert lists(drawn.dataset) == lists(data)
    drawn = sampler(_SlicedDataset(drawn.dataset, 8))  # as num_batch_per_epoch makes it
    assert len(drawn) == 8 and lists(drawn.dataset) == lists(data)


def test_subsets_of_torch_and_of_the_data_set_agree(data):
    chosen = [7, 2, 30, 2]
    assert lists(Subset(data, chosen)) == lists(data.get_subset(chosen))


def test_any_other_data_set_is_read_through_get_cat_ids():
    drawn = sampler(Foreign([[0, 0], [1], [], [0, 2]]), balance=1.0, samples_per_epoch=30)
    assert drawn.draws.image_counts.tolist() == [2, 1, 1]
    assert Counter(drawn) == {0: 5, 1: 10, 3: 15}
    assert lists(Foreign([[0], [2]], 'abcd')) == [[0], [], [1], []]


def test_a_data_set_of_mmdet_is_read_through_get_cat_ids_also_beside_ours(data):
    class Other(BaseDetDataset):
        METAINFO = data.metainfo

        def load_data_list(self):
            return [dict(instances=[dict(bbox_label=k, ignore_flag=0) for k in row]) for row in ([3], [0, 3])]

    mine, size = lists(data), len(data)
    joined = lists(ConcatDataset([data, Other(data_prefix={})], ignore_keys=['dataset_type', 'task_name']))
    assert joined == [[*mine[0], size + 1], *mine[1:3], [*mine[3], size, size + 1], *mine[4:]]


def test_parts_with_other_classes_are_refused(data):
    assert sampler(TorchConcatDataset([Foreign([[0]], ['Cat']), Foreign([[0]], ['cat'])])), 'as in ClassOrderCheckHook'
    names = data.metainfo['classes']
    for classes, difference in (
        ([names[1], names[0], *names[2:]], f"class 0 is '{names[1]}', not '{names[0]}'"),
        (names[:4], f"class 4 is None, not '{names[4]}'"),
    ):
        part = mmoid.OpenImagesHierarchyDataset(str(data.store.path), metainfo=dict(classes=classes))
        with pytest.raises(ValueError) as error:
            sampler(MMDetConcatDataset([data, part]))
        assert f'part 1 of the ConcatDataset has other classes than part 0 ({difference})' in str(error.value)


def test_a_data_set_without_classes_or_boxes_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match=r'sampler\.dataset: a list has neither class_images\(\) nor get_cat_ids'):
        sampler([1, 2, 3])
    path = make_store(tmp_path, [(0, 0, (0, 0, 1, 1), 0)]).path
    empty = mmoid.OpenImagesHierarchyDataset(str(path), metainfo=dict(classes=['/m/orange']))
    for data in (empty, Foreign([[], []]), Foreign([])):
        with pytest.raises(ValueError, match=r'sampler\.dataset: none of its \d images holds a box of its classes'):
            sampler(data)
