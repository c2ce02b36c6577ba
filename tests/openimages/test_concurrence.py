"""Objects and concurrent rates."""

import numpy as np
import pytest

from mmoid.openimages import objects
from mmoid.openimages.concurrence import concurrence_of_boxes, count_concurrence, load_rates, save_rates
from mmoid.openimages.convert import convert
from mmoid.openimages.csv_files import index_of, number_rows, read_boxes
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.objects import group_boxes, same_object_pairs
from mmoid.openimages.store import AnnotationStore
from tests.official_files import write_files
from tests.shared_data import open_images


def random_boxes(rng, num_images, most):
    counts = rng.integers(0, most, num_images)
    low = rng.uniform(0, 0.5, (counts.sum(), 2))
    box = np.concatenate([low, low + rng.uniform(0.1, 0.5, low.shape)], axis=1)
    copies = rng.random(len(box)) < 0.5
    box[copies] = np.roll(box, 1, axis=0)[copies] + rng.uniform(-0.01, 0.01, (copies.sum(), 4))
    return box, np.cumsum(counts)


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


@pytest.mark.parametrize('pairs_at_once', [1, 7, 1 << 21])
def test_pairs_are_those_of_a_double_loop(monkeypatch, pairs_at_once):
    monkeypatch.setattr(objects, 'PAIRS_AT_ONCE', pairs_at_once)
    rng = np.random.default_rng(1)
    for _ in range(20):
        box, stop = random_boxes(rng, 6, 8)
        starts = [0, *stop[:-1]]
        expected = [
            (i, j) for a, b in zip(starts, stop) for i in range(a, b) for j in range(i + 1, b)
            if iou(box[i], box[j]) >= 0.8
        ]  # fmt: skip
        first, second = same_object_pairs(box, stop, 0.8)
        assert list(zip(first.tolist(), second.tolist())) == expected


def test_rates_are_those_counted_object_by_object():
    rng = np.random.default_rng(2)
    box, stop = random_boxes(rng, 200, 6)
    label = rng.integers(0, 5, len(box))
    first, second = same_object_pairs(box, stop, 0.7)
    group = group_boxes(len(box), first, second)
    assert all(group[i] == group[j] for i, j in zip(first, second))
    label_sets = [set(label[group == g].tolist()) for g in range(group.max() + 1)]
    found = concurrence_of_boxes(box, stop, label, 5, 0.7)
    for i in range(5):
        with_i = [s for s in label_sets if i in s]
        assert found.objects[i] == len(with_i)
        for j in range(5):
            both = sum(j in s for s in with_i) if i != j else 0
            assert found.together[i, j] == both
            assert found.rates[i, j] == np.float32(both / len(with_i))
    (i, j, count), *_ = found.top_pairs(3)
    assert count == found.together.max() == found.together[i, j]


def test_group_of_boxes_are_no_objects(tmp_path):
    convert(tmp_path / 'store', **write_files(tmp_path / 'official'))
    found = count_concurrence(AnnotationStore(tmp_path / 'store'))
    assert found.objects.tolist() == [2, 1, 1, 0, 0]
    assert found.rates[0].tolist() == [0, 0.5, 0, 0, 0]
    assert found.rates[1].tolist() == [1, 0, 0, 0, 0]


def test_rates_are_read_as_they_were_written(tmp_path):
    rates = np.array([[0, 0.25], [1, 0]], dtype=np.float32)
    save_rates(tmp_path / 'rates.npz', rates, ('/m/a', '/m/b'))
    read, names = load_rates(tmp_path / 'rates.npz')
    assert (read == rates).all() and names == ('/m/a', '/m/b')
    assert [path.name for path in tmp_path.iterdir()] == ['rates.npz']


def test_rates_that_are_none_are_refused(tmp_path):
    path = tmp_path / 'rates.npz'
    with pytest.raises(AnnotationError, match=r'rates\.npz: cannot be read.*tools/concurrent_rates\.py'):
        load_rates(path)
    path.write_bytes(b'no zip')
    with pytest.raises(AnnotationError, match='cannot be read'):
        load_rates(path)
    np.savez(path, rates=np.zeros((2, 2)))
    with pytest.raises(AnnotationError, match='cannot be read'):
        load_rates(path)
    save_rates(path, np.zeros((2, 3)), ('/m/a', '/m/b'))
    with pytest.raises(AnnotationError, match=r'shape \(2, 3\) for 2 label_names'):
        load_rates(path)
    save_rates(path, np.full((2, 2), 1.5), ('/m/a', '/m/b'))
    with pytest.raises(AnnotationError, match=r'must be in \[0, 1\]'):
        load_rates(path)
    np.savez(path, rates=np.array([[object()]]), label_names=np.array(['/m/a']))
    with pytest.raises(AnnotationError, match='cannot be read'):  # pickled arrays are not loaded
        load_rates(path)


@pytest.mark.parametrize(
    ('split', 'pairs'),
    [
        ('validation', {0.9: 2564, 0.8: 3181, 0.7: 3979, 0.5: 5596}),
        ('train', {0.9: 262, 0.8: 611, 0.7: 934, 0.5: 1676}),
    ],
)
def test_pairs_of_the_real_sample_are_those_published_with_it(split, pairs):
    table = read_boxes(open_images(f'annotations/{split}-sample-challenge-bbox.csv'))
    image = number_rows(table['ImageID'])[1]
    names = [line.split(',')[0] for line in
             open_images('classes/challenge-class-descriptions-500.csv').read_text().splitlines()]  # fmt: skip
    label = index_of(table['LabelName'], names)
    order = np.argsort(image, kind='stable')
    box = np.stack([table[name].to_numpy() for name in ('XMin', 'YMin', 'XMax', 'YMax')], axis=1)[order]
    stop = np.cumsum(np.bincount(image))
    for threshold, expected in pairs.items():
        first, second = same_object_pairs(box, stop, threshold)
        assert (label[order][first] != label[order][second]).sum() == expected
