"""Subsets that keep the class ratios."""

import itertools

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.statistics import mini_split as split
from mmoid.openimages.statistics.class_deviation import ClassDeviation, box_deviation, image_deviation
from mmoid.openimages.statistics.exchange import pick_one_of_each
from mmoid.openimages.statistics.mini_split import balanced_subsets, boxes_per_image, split_images
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.official_files import write_files
from tests.shared_data import open_images


def long_tail(seed, num_images=12_000, num_classes=80):
    """Several labels and boxes an image; the frequent classes occur together with all others; a tenth has no boxes."""
    rng = np.random.default_rng(seed)
    boxes = rng.poisson(4, num_images) * (rng.random(num_images) < 0.9)
    popularity = np.arange(1, num_classes + 1) ** -2.0
    label = rng.choice(num_classes, boxes.sum(), p=popularity / popularity.sum())
    repeated = rng.random(len(label)) < 0.4  # crowds
    label[repeated] = np.roll(label, 1)[repeated]
    return boxes_per_image(np.cumsum(boxes), label, num_classes)


def deviation(counts, images, of='images'):
    numbers = counts if of == 'boxes' else (counts > 0).astype(int)
    whole, part = (np.asarray(rows.sum(axis=0)).ravel() for rows in (numbers, numbers[images]))
    return ClassDeviation(whole, part, counts.shape[0], len(images))


def drawn_at_random(num_images, size, seed):
    return np.random.default_rng(seed).choice(num_images, size, replace=False)


def test_boxes_are_counted_by_image_and_class():
    counts = boxes_per_image(np.array([3, 3, 4]), np.array([2, 0, 2, 1], dtype=np.int32), 4)
    assert counts.toarray().tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize(
    'sizes', [[], [0], [300], [299], [150, 150], [100, 20], [1, 1, 1], [0, 40, 0, 7], [290, 10], [10, 290], [60] * 5]
)
@pytest.mark.parametrize('candidates', [30, split.CANDIDATES])
def test_subsets_have_their_sizes_and_no_image_in_common(monkeypatch, sizes, candidates):
    monkeypatch.setattr(split, 'CANDIDATES', candidates)
    subsets = balanced_subsets(long_tail(0, num_images=300), sizes, seed=3)
    assert [len(subset) for subset in subsets] == sizes
    assert all((np.diff(subset) > 0).all() for subset in subsets)
    together = list(itertools.chain(*subsets))
    assert len(set(together)) == sum(sizes) and set(together) <= set(range(300))


def test_the_seed_decides():
    counts = long_tail(1)
    before = counts.toarray()
    first, again, other = (balanced_subsets(counts, [800, 100], seed) for seed in (5, 5, 6))
    assert all((a == b).all() for a, b in zip(first, again))
    common = len(np.intersect1d(first[0], other[0]))
    assert 20 < common < 120  # 800 of 12,000 images, twice: 53 in common if drawn freely
    assert (counts.toarray() == before).all()


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('sizes', [[800, 200], [6000], [11_000, 500]])
def test_every_class_keeps_its_share(seed, sizes):
    counts = long_tail(seed)
    for size, images in zip(sizes, balanced_subsets(counts, sizes, seed)):
        found, chance = (deviation(counts, rows) for rows in (images, drawn_at_random(12_000, size, seed)))
        assert np.abs(found.difference).max() < 2
        assert found.beyond_rounding.max() <= 1
        assert np.abs(found.difference).max() < np.abs(chance.difference).max() / 4
        boxes, chance = (deviation(counts, rows, 'boxes') for rows in (images, drawn_at_random(12_000, size, seed)))
        assert np.abs(boxes.difference).mean() < np.abs(chance.difference).mean() / 2


@pytest.mark.parametrize('size', [137, 800, 11_000])
def test_the_images_of_a_rarest_class_are_within_two_of_their_share(size):
    # Cells of neighbours give one image each, and a stratum cuts at most two cells: bound for any data.
    counts = long_tail(2)
    rarity = np.argsort(np.argsort(np.bincount(counts.indices, minlength=80), kind='stable'))
    stratum = np.array([min(rarity[row.indices], default=80) for row in counts])
    (images,) = balanced_subsets(counts, [size], seed=0)
    whole, part = (np.bincount(strata, minlength=81) for strata in (stratum, stratum[images]))
    assert (np.abs(part - whole * size / 12_000) < 2).all()


def test_rare_classes_do_not_vanish():
    # 40 classes of 14 images each, in 1,150 of 17,400 images: 0.93 of each, as in the paper's mini set.
    rng = np.random.default_rng(0)
    rare = np.zeros((17_400, 40), dtype=np.int32)
    for label in range(40):
        rare[rng.choice(17_400, 14, replace=False), label] = 1
    frequent = rng.random((17_400, 10)) < 0.3
    stop = np.cumsum(rare.sum(axis=1) + frequent.sum(axis=1))
    label = np.nonzero(np.concatenate([rare, frequent], axis=1))[1]
    counts = boxes_per_image(stop, label, 50)
    for seed in range(5):
        (images,) = balanced_subsets(counts, [1_150], seed)
        found, chance = (deviation(counts, rows) for rows in (images, drawn_at_random(17_400, 1_150, seed)))
        assert abs(found.difference[:40].sum()) < 2  # 37.05 images are to hold one of the 40
        assert found.part[:40].max() <= 2
        assert (found.part[:40] == 0).sum() <= 6 < 10 < (chance.part[:40] == 0).sum()


def test_images_without_boxes_keep_their_share():
    counts = long_tail(3)
    empty = np.diff(counts.indptr) == 0
    for size, images in zip((900, 90), balanced_subsets(counts, [900, 90])):
        assert abs(empty[images].sum() - empty.mean() * size) < 1


def test_images_count_for_the_ancestors_of_their_classes():
    counts = long_tail(4)
    ancestors = np.zeros((80, 80), dtype=bool)
    ancestors[np.arange(80), np.arange(80) % 4] = True  # four parents of twenty classes
    np.fill_diagonal(ancestors, False)
    expanded = (counts @ (ancestors | np.eye(80, dtype=bool))) > 0
    differences = []
    for argument in (None, ancestors):
        (images,) = balanced_subsets(counts, [800], 0, argument)
        differences.append(np.abs(deviation(expanded, images).difference[:4]))
    assert differences[1].max() < 1.5 < differences[0].max()


@pytest.mark.parametrize('seed', range(20))
def test_no_exchange_of_one_row_comes_closer(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, 40)
    rows = rng.integers(1, 9, (sizes.sum(), 12)) * (rng.random((sizes.sum(), 12)) < 0.3)
    target = rng.integers(0, 100, 12)
    picked = pick_one_of_each(csr_matrix(rows), sizes, target)
    stops = np.cumsum(sizes)
    begins = stops - sizes
    assert ((picked >= begins) & (picked < stops)).all()

    def distance(choice):
        return ((rows[choice].sum(axis=0) - target) ** 2).sum()

    assert distance(picked) < distance(begins)
    for cell, (begin, stop) in enumerate(zip(begins, stops)):
        for row in range(begin, stop):
            other = picked.copy()
            other[cell] = row
            assert distance(other) >= distance(picked)


@pytest.mark.slow
def test_the_papers_sizes_from_as_many_images_as_the_challenge_has():
    counts = long_tail(0, num_images=1_740_000, num_classes=500)
    for images in balanced_subsets(counts, [115_000, 5_000]):
        found = deviation(counts, images)
        assert np.abs(found.difference).max() < 3
        assert abs(found.relative[found.largest_relative()]) < 0.03


def test_where_nothing_is_to_gain_the_first_rows_stay():
    rows = np.random.default_rng(0).integers(0, 9, (9, 4))
    begins = [0, 2, 5]
    picked = pick_one_of_each(csr_matrix(rows), np.array([2, 3, 4]), rows[begins].sum(axis=0))
    assert picked.tolist() == begins


def test_a_deviation_tells_counts_ratios_and_rounding():
    found = ClassDeviation(np.array([1000, 14, 3, 0, 40]), np.array([110, 1, 2, 0, 4]), 100, 10)
    assert found.expected.tolist() == [100, 1.4000000000000001, 0.30000000000000004, 0, 4]
    assert found.difference.round(9).tolist() == [10, -0.4, 1.7, 0, 0]
    assert found.beyond_rounding.tolist() == [10, 0, 1, 0, 0]
    assert found.relative.round(6).tolist() == [0.1, -0.285714, 5.666667, 0, 0]
    assert (found.largest(), found.largest_relative(), found.largest_relative(1)) == (0, 0, 1)
    assert found.largest_relative(1000) is None


def test_sizes_that_cannot_be_are_told():
    counts = long_tail(0, num_images=30)
    with pytest.raises(AnnotationError, match=r'sizes: 20 \+ 11 images were asked for, but there are 30; ask'):
        balanced_subsets(counts, [20, 11])
    with pytest.raises(AnnotationError, match=r'sizes\[1\]: must be an integer >= 0, got -1'):
        balanced_subsets(counts, [3, -1])
    with pytest.raises(AnnotationError, match=r'sizes\[0\]: must be an integer >= 0, got 0\.5'):
        balanced_subsets(counts, [0.5])
    with pytest.raises(AnnotationError, match=r'seed: must be an integer >= 0, got -2'):
        balanced_subsets(counts, [3], seed=-2)


def test_data_without_any_box_are_split_too():
    counts = boxes_per_image(np.zeros(20, dtype=np.int64), np.zeros(0, dtype=np.int32), 5)
    assert [len(subset) for subset in balanced_subsets(counts, [12, 3])] == [12, 3]


def test_a_store_is_compared_with_a_part_of_it(tmp_path):
    convert(tmp_path / 'store', **write_files(tmp_path / 'official'))
    store = AnnotationStore(tmp_path / 'store')
    images = np.array([0, 3])
    assert image_deviation(store, images).part.tolist() == [1, 1, 0, 0, 0]
    assert image_deviation(store, images, expand_hierarchy=True).part.tolist() == [1, 1, 1, 0, 0]
    assert image_deviation(store, images, expand_hierarchy=True).whole.tolist() == [1, 1, 2, 1, 0]
    assert box_deviation(store, images).part.tolist() == [2, 1, 0, 0, 0]
    assert box_deviation(store, images).expected.tolist() == [1, 0.5, 0.5, 0.5, 0]


def test_the_real_sample_is_split(tmp_path):
    boxes = open_images('annotations/train-sample-challenge-bbox.csv')
    ids = sorted({line.split(',')[0] for line in boxes.read_text().splitlines()[1:]})
    (tmp_path / 'sizes.csv').write_text('image_id,width,height\n' + ''.join(f'{name},640,480\n' for name in ids))
    convert(
        tmp_path / 'store',
        boxes=boxes,
        classes=open_images('classes/challenge-class-descriptions-500.csv'),
        hierarchy=open_images('hierarchy/bbox_labels_500_hierarchy.json'),
        image_sizes=tmp_path / 'sizes.csv',
    )
    store = AnnotationStore(tmp_path / 'store')
    for size, images in zip((1000, 300), split_images(store, [1000, 300])):
        chance = drawn_at_random(store.num_images, size, seed=0)
        for expand in (False, True):
            found, other = (image_deviation(store, rows, expand) for rows in (images, chance))
            assert np.abs(found.difference).max() < 2 < np.abs(other.difference).max() / 4
            assert found.beyond_rounding.max() <= 1
