"""Image lists of classes, of any data set and inside the wrappers of mmengine, mmdet and torch."""

from collections import Counter

import numpy as np
import pytest
from mmdet.datasets import BaseDetDataset, MultiImageMixDataset
from mmdet.datasets import ConcatDataset as MMDetConcatDataset
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from torch.utils.data import Subset

import mmoid
from mmoid.datasets.samplers import class_image_lists
from tests.box_stores import make_store


@pytest.fixture(scope='module')
def data(tiny_data):
    return mmoid.OpenImagesHierarchyDataset(str(tiny_data / 'train'), filter_cfg=dict(filter_empty_gt=True))


def lists(dataset, expand=True):
    """One list of images for each class."""
    stop, images = class_image_lists(dataset, expand)
    return [sorted(part.tolist()) for part in np.split(images, stop[:-1])]


def labels_of(dataset, index, expand):
    """Classes of an item, by its ancestors in the hierarchy."""
    labels = {instance['bbox_label'] for instance in dataset.get_data_info(index)['instances']}
    hierarchy = (dataset.datasets[0] if hasattr(dataset, 'datasets') else dataset.dataset).hierarchy
    return labels.union(*(hierarchy.ancestors(label).tolist() for label in labels)) if expand else labels


@pytest.mark.parametrize('expand', [True, False])
@pytest.mark.parametrize(
    'wrap',
    [
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
        for label in labels_of(wrapped, index, expand):
            expected[label].append(index)
    assert lists(wrapped, expand) == expected


def test_no_item_is_asked_for_its_labels_inside_wrappers(data, monkeypatch):
    wrapped = [ConcatDataset([data, data]), ClassBalancedDataset(data, oversample_thr=0.4), RepeatDataset(data, 2)]

    def refuse(self, index):
        raise AssertionError('a loop over images')

    monkeypatch.setattr(type(data), 'get_cat_ids', refuse)
    monkeypatch.setattr(type(data), 'get_data_info', refuse)
    for dataset in wrapped:
        assert list(mmoid.SoftBalanceClassAwareSampler(dataset, seed=0))


def test_a_repeated_data_set_has_longer_epochs_and_repeats_no_image_early(data):
    drawn = mmoid.SoftBalanceClassAwareSampler(RepeatDataset(data, 3), seed=0, balance=0)
    assert len(drawn) == 3 * len(data)
    assert lists(drawn.dataset) == lists(data)
    label, _ = drawn.draws.epoch(0)
    indices = np.array(list(drawn))
    for k, members in enumerate(lists(data)):
        walk = indices[label == k][: len(members)]
        assert len(set(walk.tolist())) == len(walk)


def test_subsets_of_torch_and_of_the_data_set_agree(data):
    chosen = [7, 2, 30, 2]
    assert lists(Subset(data, chosen)) == lists(data.get_subset(chosen))


class Foreign:
    def __init__(self, labels, classes=None):
        self.labels = labels
        if classes:
            self.metainfo = dict(classes=classes)

    def __len__(self):
        return len(self.labels)

    def get_cat_ids(self, index):
        return self.labels[index]


def test_any_other_data_set_is_read_through_get_cat_ids():
    drawn = mmoid.SoftBalanceClassAwareSampler(
        Foreign([[0, 0], [1], [], [0, 2]]), balance=1.0, samples_per_epoch=30, seed=0
    )
    assert drawn.draws.image_counts.tolist() == [2, 1, 1]
    assert Counter(drawn) == {0: 5, 1: 10, 3: 15}
    assert lists(Foreign([[0], [2]], 'abcd')) == [[0], [], [1], []]


def test_a_data_set_of_mmdet_is_read_through_get_cat_ids_also_beside_ours(data):
    items = [dict(instances=[dict(bbox_label=label, ignore_flag=0) for label in row]) for row in ([3], [0, 3])]

    class Other(BaseDetDataset):
        METAINFO = data.metainfo

        def load_data_list(self):
            return items

    mine = lists(data)
    joined = lists(ConcatDataset([data, Other(data_prefix={})], ignore_keys=['dataset_type', 'task_name']))
    assert joined[3] == [*mine[3], len(data), len(data) + 1]
    assert joined[0] == [*mine[0], len(data) + 1]
    assert joined[1] == mine[1]


def test_parts_with_other_classes_are_refused(data):
    names = data.metainfo['classes']
    path = str(data.store.path)
    swapped = mmoid.OpenImagesHierarchyDataset(path, metainfo=dict(classes=[names[1], names[0], *names[2:]]))
    fewer = mmoid.OpenImagesHierarchyDataset(path, metainfo=dict(classes=names[:4]))
    for part, difference in (
        (swapped, f"class 0 is '{names[1]}', not '{names[0]}'"),
        (fewer, f'4, not {len(names)}'),
    ):
        with pytest.raises(ValueError) as error:
            mmoid.SoftBalanceClassAwareSampler(MMDetConcatDataset([data, part]), seed=0)
        assert f'part 1 of the ConcatDataset has other classes than part 0 ({difference})' in str(error.value)


def test_a_data_set_that_cannot_tell_its_classes_is_refused():
    class Silent:
        def __len__(self):
            return 3

    with pytest.raises(ValueError, match=r'sampler\.dataset: a Silent has neither class_images\(\) nor get_cat_ids'):
        mmoid.SoftBalanceClassAwareSampler(Silent(), seed=0)


def test_a_data_set_without_a_box_is_refused_before_training(tmp_path):
    empty = mmoid.OpenImagesHierarchyDataset(
        str(make_store(tmp_path, [(0, 0, (0, 0, 1, 1), 0)]).path), metainfo=dict(classes=['/m/orange'])
    )
    for dataset in (empty, Foreign([[], []]), Foreign([])):
        with pytest.raises(ValueError, match=r'sampler\.dataset: none of its \d images holds a box of its classes'):
            mmoid.SoftBalanceClassAwareSampler(dataset, seed=0)
