import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.statistics.mini_split import box_deviation, image_deviation, stratify
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.official_files import write_files


def long_tail(seed, num_images=12_000, num_classes=80):
    """Labels of images: frequent classes occur with all others; some images have no label."""
    rng = np.random.default_rng(seed)
    popularity = np.minimum(0.4, 2.0 * np.arange(1, num_classes + 1) ** -1.5)
    return csr_matrix(rng.random((num_images, num_classes)) < popularity)


def drawn_at_random(num_images, size):
    return np.random.default_rng(0).choice(num_images, size, replace=False)


@pytest.mark.parametrize('sizes', [[], [0], [300], [299], [150, 150], [100, 20], [0, 40, 0, 7], [10, 290], [60] * 5])
def test_subsets_have_their_sizes_and_no_image_in_common(sizes):
    subsets = stratify(long_tail(0, num_images=300), sizes, seed=3)
    assert [len(subset) for subset in subsets] == sizes
    assert all((np.diff(subset) > 0).all() for subset in subsets)
    assert len(set(np.concatenate([[], *subsets]).tolist())) == sum(sizes)


def test_the_seed_determines_the_subsets():
    labels = long_tail(1)
    first, again, other = (stratify(labels, [800, 100], seed) for seed in (5, 5, 6))
    assert all((a == b).all() for a, b in zip(first, again))
    assert (first[0] != other[0]).any()


def test_class_ratios_are_nearer_to_the_whole_than_at_random():
    labels = long_tail(2)
    expected = np.asarray(labels.sum(axis=0)).ravel() / 12
    (images,) = stratify(labels, [1000])
    found, random = (
        np.abs(np.asarray(labels[rows].sum(axis=0)).ravel() - expected)
        for rows in (images, drawn_at_random(12_000, 1000))
    )
    assert found.max() < random.max() / 2 and np.median(found) < 1.5


def test_data_without_labels_are_split():
    assert [len(subset) for subset in stratify(csr_matrix((20, 5), dtype=bool), [12, 3])] == [12, 3]


@pytest.mark.parametrize('sizes', [[20, 11], [3, -1]])
def test_invalid_sizes_raise(sizes):
    with pytest.raises(ValueError, match=r'sizes must be >= 0 with a sum of at most 30 images, got \['):
        stratify(long_tail(0, num_images=30), sizes)


def test_deviations_compare_a_part_with_the_store(tmp_path):
    convert(tmp_path / 'store', **write_files(tmp_path / 'official'))
    store = AnnotationStore(tmp_path / 'store')
    images = np.array([0, 3])
    assert image_deviation(store, images)[1].tolist() == [1, 1, 0, 0, 0]
    expected, got = image_deviation(store, images, expand_hierarchy=True)
    assert expected.tolist() == [0.5, 0.5, 1, 0.5, 0] and got.tolist() == [1, 1, 1, 0, 0]
    expected, got = box_deviation(store, images)
    assert expected.tolist() == [1, 0.5, 0.5, 0.5, 0] and got.tolist() == [2, 1, 0, 0, 0]
