"""Objects and concurrent rates."""

import numpy as np
import pytest

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.csv_files import number_rows, read_boxes
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.statistics import objects
from mmoid.openimages.statistics.concurrent_rates import (
    count_by_threshold,
    count_concurrence,
    load_rates,
    save_rates,
)
from mmoid.openimages.statistics.objects import box_pairs, object_of_box, overlapping_pairs
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


@pytest.mark.parametrize('pairs_at_once', [1, 1 << 21])
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
        pairs = box_pairs(box, stop, 0.8)
        assert list(zip(pairs.first.tolist(), pairs.second.tolist())) == expected


def test_objects_are_connected_components_of_one_image_without_group_of_boxes():
    box = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8.1], [0, 0, 10, 10], [0, 0, 10, 10]])
    found = object_of_box(box, np.array([4, 5]), np.array([0, -1, 0, 1, 0]), 0.9)
    assert found[0] == found[1] == found[2] != found[4] and found[3] == -1


def test_group_of_boxes_are_not_objects(tmp_path):
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


def test_invalid_rates_files_raise(tmp_path):
    path = tmp_path / 'rates.npz'
    with pytest.raises(AnnotationError, match=r'rates\.npz: cannot be read.*concurrent_rates\.py'):
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
    ('split', 'published'),
    [
        ('validation', {0.9: 2564, 0.8: 3181, 0.7: 3979, 0.5: 5596}),
        ('train', {0.9: 262, 0.8: 611, 0.7: 934, 0.5: 1676}),
    ],
)
def test_pairs_of_the_real_sample_are_exact(split, published):
    table = read_boxes(open_images(f'annotations/{split}-sample-challenge-bbox.csv'))
    image = number_rows(table['ImageID'])[1]
    names = [line.split(',')[0] for line in
             open_images('classes/challenge-class-descriptions-500.csv').read_text().splitlines()]  # fmt: skip
    label = ClassNames(tuple(names)).find(table['LabelName'])
    order = np.argsort(image, kind='stable')
    box = np.stack([table[name].to_numpy() for name in ('XMin', 'YMin', 'XMax', 'YMax')], axis=1)[order]
    stop = np.cumsum(np.bincount(image))
    for threshold, expected in published.items():
        pairs = box_pairs(box, stop, threshold)
        assert (label[order][pairs.first] != label[order][pairs.second]).sum() == expected


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


def test_thresholds_out_of_range_raise():
    pairs = box_pairs(np.array([[0, 0, 1, 1], [0, 0, 1, 1]]), np.array([2]), 0.7)
    assert len(pairs.at(1.0).first) == 1
    with pytest.raises(ValueError, match=r'must be in \[0.7, 1\], got 0.5'):
        pairs.at(0.5)
    with pytest.raises(ValueError, match=r'must be in \(0, 1\], got 0'):
        box_pairs(np.zeros((0, 4)), np.zeros(0, dtype=int), 0)


@pytest.mark.parametrize('pairs_at_once', [5])
def test_boxes_are_compared_with_their_runs_of_other_boxes(monkeypatch, pairs_at_once):
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
