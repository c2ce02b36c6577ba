"""Matching and average precision: against the official rules restated, in chunks, of subsets, in little memory."""

import tracemalloc

import numpy as np
import pytest

from mmoid.openimages.metric import matching
from mmoid.openimages.metric.average_precision import average_precision, count_positives, mean_average_precision
from mmoid.openimages.metric.matching import GroundTruth, Matches, match_detections
from mmoid.openimages.statistics import objects
from mmoid.openimages.store.annotation_store import NOT_EXHAUSTIVE
from tests.openimages.metric.metric_cases import (
    ap_and_positives,
    detections_of,
    ground_truth_of,
    make_annotations,
    match,
    random_case,
)
from tests.openimages.metric.metric_oracle import Case, evaluate

LEFT, FAR = (0, 0, 10, 10), (50, 50, 60, 60)


def test_a_detection_without_a_box_is_ignored_where_some_objects_have_none():
    labels = [(0, 2, NOT_EXHAUSTIVE), (1, 2, 1)]
    case = Case(2, 3, [(0, 2, LEFT, False), (1, 2, LEFT, False)], labels, parents={2: [1]})
    for image, label in ((0, 2), (0, 1), (1, 2)):
        case.detections += [(image, label, 0.9, LEFT), (image, label, 0.8, LEFT), (image, label, 0.7, FAR)]
    found, false = (0.9, 1), [(0.8, 0), (0.7, 0)]
    assert match(case) == [found] * 3 + false, 'only image 1 has false positives, and ancestors have none in image 0'
    case.verified_only = False
    assert len(match(case)) == 9


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(image=[1]), r'image\[0\]: expects 0 <= index < 1, got 1'),
        (dict(label=[3]), r'label\[0\]: expects 0 <= index < 3, got 3'),
        (dict(score=[np.nan]), r'score\[0\]: expects a number, got nan'),
    ],
)
def test_bad_arguments_are_errors(change, message):
    given = dict(image=[0], label=[0], score=[0.5], box=[LEFT])
    ground_truth = ground_truth_of(Case(1, 3, [(0, 0, LEFT, False)]))
    assert match_detections(ground_truth, **given).value.tolist() == [1]
    with pytest.raises(ValueError, match=message):
        match_detections(ground_truth, **{**given, **change})


def assert_same(one: Matches, other: Matches) -> None:
    for name in ('image', 'label', 'score', 'value', 'found'):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.fixture(scope='module')
def crowd() -> Case:
    """Thirty images with the boxes, labels and detections of random cases, all under one hierarchy."""
    parts = [random_case(seed) for seed in range(31, 61)]
    return Case(
        num_images=30,
        num_classes=6,
        boxes=[(image, *row[1:]) for image, part in enumerate(parts) for row in part.boxes],
        labels=[(image, *row[1:]) for image, part in enumerate(parts) for row in part.labels],
        detections=[(image, *row[1:]) for image, part in enumerate(parts) for row in part.detections],
        parents={1: [0], 2: [0, 1], 4: [3]},
    )


@pytest.mark.parametrize('size', [1, 2, 100])
def test_neither_chunk_sizes_nor_the_order_of_rows_change_the_result(crowd, monkeypatch, size):
    ground_truth = ground_truth_of(crowd)
    image, label, _, box = detections_of(crowd)
    score = np.random.default_rng(0).permutation(len(image)) / len(image)
    whole = match_detections(ground_truth, image, label, score, box)
    monkeypatch.setattr(objects, 'PAIRS_AT_ONCE', size)
    monkeypatch.setattr(matching, 'DETECTIONS_AT_ONCE', size)
    mixed = np.random.default_rng(1).permutation(len(image))
    assert_same(match_detections(ground_truth, image[mixed], label[mixed], score[mixed], box[mixed]), whole)


@pytest.mark.parametrize('cuts', [[15], [1, 2, 3, 29], list(range(1, 30))])
def test_matches_of_chunks_of_images_concatenate_to_the_whole(crowd, cuts):
    ground_truth, columns = ground_truth_of(crowd), detections_of(crowd)
    whole, positives = match_detections(ground_truth, *columns), count_positives(ground_truth)
    chunk = np.searchsorted(cuts, columns[0], side='right')
    parts = [match_detections(ground_truth, *(column[chunk == i] for column in columns)) for i in range(len(cuts) + 1)]
    assert_same(Matches.concatenate(parts), whole)
    backwards = average_precision(Matches.concatenate(parts[::-1]), positives)
    np.testing.assert_array_equal(backwards, average_precision(whole, positives))


def test_a_subset_of_images_is_evaluated_like_a_set_of_its_own(crowd):
    chosen = [3, 4, 11, 28]

    def of_chosen(rows):
        return [(chosen.index(row[0]), *row[1:]) for row in rows if row[0] in chosen]

    small = Case(4, 6, of_chosen(crowd.boxes), of_chosen(crowd.labels), of_chosen(crowd.detections), crowd.parents)
    expected, expected_positives = evaluate(small)
    ground_truth, columns = ground_truth_of(crowd), detections_of(crowd)
    inside = np.isin(columns[0], chosen)
    matches = match_detections(ground_truth, *(column[inside] for column in columns))
    positives = count_positives(ground_truth, images=[*chosen, 3])
    assert positives.tolist() == expected_positives
    np.testing.assert_allclose(average_precision(matches, positives), expected, rtol=1e-12)


def test_memory_grows_with_rows_not_with_images_times_classes():
    rng = np.random.default_rng(0)
    images, classes, rows = 10**6, 10**4, 2000

    def columns():
        low = rng.random((rows, 2))
        return rng.integers(0, images, rows), rng.integers(0, classes, rows), np.concatenate([low, low + 0.5], axis=1)

    names = [str(label) for label in range(classes)]
    tracemalloc.start()
    image, label, box = columns()
    annotations = make_annotations(images, names, None, image, label, box, np.zeros(rows))
    ground_truth = GroundTruth.build(annotations, expand=False)
    matches = match_detections(ground_truth, image, label, rng.random(rows), box)
    ap = average_precision(matches, count_positives(ground_truth))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.nanmin(ap) == 1 and (~np.isnan(ap)).sum() == len(np.unique(label))
    assert peak < 4_000_000, 'bytes; one bit for each image and class would be a gigabyte'


@pytest.mark.parametrize('count', [3000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_random_cases_agree_with_the_restatement(count):
    for seed in range(count):
        case = random_case(seed)
        expected_ap, expected_positives = evaluate(case)
        with np.errstate(all='raise'):
            ap, positives = ap_and_positives(case)
        np.testing.assert_allclose(positives, expected_positives, rtol=1e-12, err_msg=str(case))
        np.testing.assert_allclose(ap, expected_ap, rtol=1e-12, atol=1e-12, err_msg=str(case))


def matches_of(values: list[float], label: int = 0) -> Matches:
    count = len(values)
    score = np.linspace(1, 0, count)
    return Matches(np.arange(count), np.full(count, label), score, np.array(values, dtype=float), np.arange(0))


def test_classes_without_ground_truth_are_left_out_of_the_mean():
    ap = average_precision(matches_of([1, 0], label=1), [2, 1, 0])
    np.testing.assert_array_equal(ap, [0, 1, np.nan])
    assert mean_average_precision(ap) == 0.5
    assert np.isnan(mean_average_precision(ap[2:]))
    with pytest.raises(ValueError, match=r'positives\[1\]: expects at least the true positives .*, got 1'):
        average_precision(matches_of([1, 1], label=1), [5, 1])


def test_no_images_and_no_detections_give_nan():
    ap, positives = ap_and_positives(Case(0, 2))
    assert np.isnan(ap).all() and positives.tolist() == [0, 0]
    assert len(Matches.concatenate([]).label) == 0
