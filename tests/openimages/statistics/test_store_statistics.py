"""Statistics of a store, against counting by hand."""

import numpy as np
import pytest

from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.evaluator import Evaluator
from mmoid.openimages.statistics.concurrent_rates import count_by_threshold
from mmoid.openimages.statistics.store_statistics import count_verified, head_to_tail, leaf_absence, measure
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.box_stores import APPLE, FRUIT, ORANGE, label_sets_of, make_store, random_rows
from tests.real_stores import sample

LEFT, RIGHT = (0, 0, 0.5, 1), (0.5, 0, 1, 1)


@pytest.fixture(params=range(2))
def random_store(request, tmp_path):
    rows = random_rows(np.random.default_rng(request.param))
    return make_store(tmp_path, rows), rows


def with_ancestors(store, labels):
    return set(labels) | {int(ancestor) for label in labels for ancestor in store.hierarchy.ancestors(label)}


def test_head_to_tail_leaves_out_classes_that_do_not_occur():
    assert head_to_tail(np.array([0, 4, 100, 8])) == 25
    assert head_to_tail(np.zeros(3, dtype=int)) == 1


def test_parents_without_a_finer_label_are_those_found_object_by_object(random_store):
    store, rows = random_store
    label_sets = label_sets_of(rows, 0.8)
    found = leaf_absence(count_by_threshold(store, [0.8])[0].labels, store.hierarchy)
    assert found.label.tolist() == [FRUIT]
    finer = set(store.hierarchy.descendants(FRUIT).tolist())
    assert finer == {APPLE, ORANGE}
    assert found.objects == [sum(bool(labels & {FRUIT, *finer}) for labels in label_sets)]
    assert found.without_leaf == [sum(FRUIT in labels and not labels & finer for labels in label_sets)]
    assert 0 < found.share[0] < 1


def test_label_set_sizes_are_those_counted_object_by_object(random_store):
    store, rows = random_store
    label_sets = label_sets_of(rows, 0.7)
    found = measure(store, 0.7)
    assert found.label_set_sizes.tolist() == np.bincount([len(labels) for labels in label_sets]).tolist()
    expanded = [len(with_ancestors(store, labels)) for labels in label_sets]
    assert found.expanded_sizes.tolist() == np.bincount(expanded).tolist()
    assert len(found.label_set_sizes) > 2


def test_the_statistics_of_the_real_sample_are_those_published(tmp_path):
    store = AnnotationStore(sample(tmp_path, 'validation'))
    found = measure(store)
    assert found.level.pairs == 2564 and found.level.boxes / store.num_boxes == pytest.approx(0.164, abs=5e-4)
    (i, j, together), *_ = found.level.concurrence.top_pairs(1)
    assert {store.class_names[i], store.class_names[j]} == {'Woman', 'Girl'} and together == 155
    assert store.num_boxes == 23632 and np.count_nonzero(store.class_image_counts(False)) == 497


def test_verified_pairs_are_those_of_the_metric(tiny_data):
    store = AnnotationStore(tiny_data / 'validation')
    assert count_verified(store) == len(Evaluator(annotations_of_store(store)).ground_truth.verified) > 0
