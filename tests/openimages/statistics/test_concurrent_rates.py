"""Objects and concurrent rates."""

import numpy as np
import pytest

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.csv_files import number_rows, read_boxes
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.statistics import objects
from mmoid.openimages.statistics.concurrent_rates import (
    concurrence_of_boxes,
    count_by_threshold,
    count_concurrence,
    load_rates,
    save_rates,
)
from mmoid.openimages.statistics.objects import box_pairs, group_boxes, overlapping_pairs, same_object_pairs
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.box_stores import iou, label_sets_of, make_store, random_rows
from tests.official_files import write_files
from tests.shared_data import open_images


def random_boxes(rng, num_images, most):
    counts = rng.integers(0, most, num_images)
    low = rng.uniform(0, 0.5, (counts.sum(), 2))
    box = np.concatenate([low, low + rng.uniform(0.1, 0.5, low.shape)], axis=1)
    copies = rng.random(len(box)) < 0.5
    box[copies] = np.roll(box, 1, axis=0)[copies] + rng.uniform(-0.01, 0.01, (copies.sum(), 4))
    return box, np.cumsum(counts)


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
    label = ClassNames(tuple(names)).find(table['LabelName'])
    order = np.argsort(image, kind='stable')
    box = np.stack([table[name].to_numpy() for name in ('XMin', 'YMin', 'XMax', 'YMax')], axis=1)[order]
    stop = np.cumsum(np.bincount(image))
    for threshold, expected in pairs.items():
        first, second = same_object_pairs(box, stop, threshold)
        assert (label[order][first] != label[order][second]).sum() == expected


def test_several_thresholds_at_once_are_the_same_as_one_after_the_other(tmp_path):
    rows = random_rows(np.random.default_rng(3))
    store = make_store(tmp_path, rows)
    thresholds = [0.9, 0.6, 0.75]
    levels = count_by_threshold(store, thresholds)
    assert [level.iou_threshold for level in levels] == thresholds
    for level, threshold in zip(levels, thresholds):
        alone = count_concurrence(store, threshold)
        assert (level.concurrence.objects == alone.objects).all()
        assert (level.concurrence.together == alone.together).all()
        label_sets = label_sets_of(rows, threshold)
        assert alone.objects.tolist() == [sum(i in labels for labels in label_sets) for i in range(5)]
        pairs = [
            (a, b) for b in range(len(rows)) for a in range(b)
            if rows[a][0] == rows[b][0] and rows[a][1] != rows[b][1] and 1 not in (rows[a][3], rows[b][3])
            and iou(rows[a][2], rows[b][2]) >= threshold
        ]  # fmt: skip
        assert level.pairs == len(pairs) > 0
        assert level.boxes == len({row for pair in pairs for row in pair})
        kinds = {frozenset((i, j)) for labels in label_sets for i in labels for j in labels if i != j}
        assert level.label_pairs == len(kinds)


def test_a_label_that_two_boxes_of_an_object_give_counts_once(tmp_path):
    box = (0.1, 0.1, 0.9, 0.9)
    found = count_concurrence(make_store(tmp_path, [(0, 0, box, 0), (0, 0, box, 0), (0, 1, box, 0)]))
    assert found.objects.tolist() == [1, 1, 0, 0, 0] and found.rates[0, 1] == found.rates[1, 0] == 1


def test_pairs_below_the_threshold_that_was_sought_are_not_made_up():
    pairs = box_pairs(np.array([[0, 0, 1, 1], [0, 0, 1, 1]]), np.array([2]), 0.7)
    assert len(pairs.at(1.0).first) == 1
    with pytest.raises(ValueError, match=r'must be in \[0.7, 1\], got 0.5'):
        pairs.at(0.5)
    with pytest.raises(ValueError, match=r'must be in \(0, 1\], got 0'):
        box_pairs(np.zeros((0, 4)), np.zeros(0, dtype=int), 0)


@pytest.mark.parametrize('pairs_at_once', [1, 5, 1 << 18])
def test_boxes_are_held_against_their_runs_of_other_boxes(monkeypatch, pairs_at_once):
    monkeypatch.setattr(objects, 'PAIRS_AT_ONCE', pairs_at_once)
    rng = np.random.default_rng(4)
    a, _ = random_boxes(rng, 10, 6)
    b = rng.permutation(a) + rng.uniform(-0.01, 0.01, a.shape)
    start = rng.integers(0, len(b), len(a))
    count = rng.integers(0, len(b) - start + 1)
    expected = [
        (i, j) for i in range(len(a)) for j in range(start[i], start[i] + count[i]) if iou(a[i], b[j]) >= 0.3
    ]  # fmt: skip
    first, second, overlap = overlapping_pairs(a, b, start, count, 0.3)
    assert list(zip(first.tolist(), second.tolist())) == expected and len(expected) > 10
    assert overlap.tolist() == pytest.approx([iou(a[i], b[j]) for i, j in expected], abs=1e-12)
