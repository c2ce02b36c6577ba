from itertools import combinations

import numpy as np
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.statistics import objects
from mmoid.openimages.statistics.concurrent_rates import count_by_threshold, count_concurrence, load_rates, save_rates
from mmoid.openimages.statistics.objects import object_pairs
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.box_stores import iou, label_sets_of, make_store, random_rows
from tests.real_stores import sample


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
        group = rng.integers(-1, 2, len(box))
        expected = []
        for first, last in zip([0, *stop[:-1]], stop):
            for i, j in combinations(range(first, last), 2):
                if iou(box[i], box[j]) >= 0.8 and 1 not in (group[i], group[j]):
                    expected.append((i, j))
        first, second, _ = object_pairs(box, stop, group, 0.8)
        assert list(zip(first.tolist(), second.tolist())) == expected


def test_rates_are_read_as_they_were_written(tmp_path):
    rates = np.array([[0, 0.25], [1, 0]], dtype=np.float32)
    save_rates(tmp_path / 'rates.npz', rates, ('/m/a', '/m/b'))
    read, names = load_rates(tmp_path / 'rates.npz')
    assert (read == rates).all() and names == ('/m/a', '/m/b')
    assert [path.name for path in tmp_path.iterdir()] == ['rates.npz']
    np.savez(tmp_path / 'dense.npz', rates=rates, label_names=names)  # as version 0.1 wrote it
    assert (load_rates(tmp_path / 'dense.npz')[0] == rates).all()
    np.savez(tmp_path / 'rounded.npz', rates=[[0, 1.000001], [-1e-9, 0]], label_names=names)
    assert load_rates(tmp_path / 'rounded.npz')[0].toarray().tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize(
    ('arrays', 'message'),
    [
        (None, 'cannot be read as concurrent rates'),
        ({'rates': np.zeros((2, 2))}, r'rates\.npz: cannot be read.*mmoid rates'),
        ({'rates': np.zeros((2, 3)), 'label_names': ['a', 'b']}, r'shape \(2, 3\) for 2 label_names'),
        ({'rates': np.full((1, 1), 1.5), 'label_names': ['a']}, r'must be in \[0, 1\], found 1\.5'),
        ({'rates': np.array([[object()]]), 'label_names': ['a']}, 'cannot be read'),  # pickles are not loaded
        ({'rates': np.zeros((2, 2)), 'label_names': ['a', 'a']}, "'a' occurs twice"),
        ({'rates': [0.5], 'pairs': [[0], [2]], 'label_names': ['a', 'b']}, 'cannot be read'),
    ],
)
def test_missing_or_invalid_rates_raise(tmp_path, arrays, message):
    if arrays is not None:
        np.savez(tmp_path / 'rates.npz', **arrays)
    with pytest.raises(AnnotationError, match=message):
        load_rates(tmp_path / 'rates.npz')


@pytest.mark.parametrize(
    ('split', 'published'),
    [
        ('validation', {0.9: 2564, 0.8: 3181, 0.7: 3979, 0.5: 5596}),
        ('train', {0.9: 262, 0.8: 611, 0.7: 934, 0.5: 1676}),
    ],
)
def test_pairs_of_the_real_sample_are_exact(tmp_path, split, published):
    levels = count_by_threshold(AnnotationStore(sample(tmp_path, split)), list(published))
    assert {level.iou_threshold: level.pairs for level in levels} == published


def test_several_thresholds_at_once_are_the_same_as_one_after_the_other(tmp_path):
    rows = random_rows(np.random.default_rng(3))
    store = make_store(tmp_path, rows)
    thresholds = [0.9, 0.6, 0.75]
    levels = count_by_threshold(store, thresholds)
    assert [level.iou_threshold for level in levels] == thresholds
    for level, threshold in zip(levels, thresholds):
        alone = count_concurrence(store, threshold)
        assert (level.concurrence.objects == alone.objects).all()
        assert (level.concurrence.together != alone.together).nnz == 0
        label_sets = label_sets_of(rows, threshold)
        assert alone.objects.tolist() == [sum(i in labels for labels in label_sets) for i in range(5)]
        pairs = []
        for a, b in combinations(rows, 2):
            if a[0] == b[0] and a[1] != b[1] and 1 not in (a[3], b[3]) and iou(a[2], b[2]) >= threshold:
                pairs.append((a, b))
        assert level.pairs == len(pairs) > 0
        assert level.boxes == len({row for pair in pairs for row in pair})
        kinds = {frozenset((i, j)) for labels in label_sets for i in labels for j in labels if i != j}
        assert level.label_pairs == len(kinds)


@pytest.mark.parametrize('thresholds', [[0], [0.5, 1.01]])
def test_thresholds_out_of_range_raise(tmp_path, thresholds):
    with pytest.raises(ValueError, match=rf'must be in \(0, 1\], got {thresholds[-1]}'):
        count_by_threshold(make_store(tmp_path, []), thresholds)
