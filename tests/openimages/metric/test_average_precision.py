"""The metric against the official evaluator's own figures and against a plain restatement."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.metric.average_precision import (
    GroundTruth,
    Matches,
    average_precision,
    count_positives,
    evaluate_detections,
    match_detections,
    mean_average_precision,
)
from tests.openimages.metric.metric_cases import (
    DIFFICULTIES,
    LEFT,
    detections_of,
    difficulties,
    ground_truth_of,
    one_image,
    random_case,
    settings_of,
)
from tests.openimages.metric.metric_oracle import Case, evaluate

OFFICIAL_CASES = Path(__file__).resolve().parents[4] / 'shared' / 'data' / 'metric-cases'
CASES = sorted(path.name for path in OFFICIAL_CASES.glob('case_*')) or ['absent']


def read_rows(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline='') as file:
        names, *rows = csv.reader(file)
    return dict(zip(names, np.array(rows).reshape(len(rows), len(names)).T))


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('protocol', ['challenge', 'v2_unexpanded'])
def test_figures_equal_the_official_evaluator(name, protocol):
    folder = OFFICIAL_CASES / name
    if not folder.is_dir():
        pytest.skip(f'needs {OFFICIAL_CASES}')
    expected = json.loads((folder / f'expected_{protocol}.json').read_text())
    boxes, labels, predictions = (read_rows(folder / f'{part}.csv') for part in ('boxes', 'labels', 'predictions'))
    with (folder / 'classes.csv').open(newline='') as file:
        mids = [row[0] for row in csv.reader(file)]
    images = sorted({*boxes['ImageID'], *labels['ImageID']})
    known = np.isin(predictions['ImageID'], images)
    predictions = {field: column[known] for field, column in predictions.items()}

    def columns(rows):
        return (
            np.array([images.index(image) for image in rows['ImageID']], dtype=int),
            np.array([mids.index(label) for label in rows['LabelName']], dtype=int),
        )

    def corners(rows):
        return np.stack([rows[side].astype(float) for side in ('XMin', 'YMin', 'XMax', 'YMax')], axis=1)

    challenge = protocol == 'challenge'
    hierarchy = ClassHierarchy.from_json(folder / 'hierarchy.json', mids) if challenge else None
    ground_truth = GroundTruth.build(
        len(images),
        len(mids),
        *columns(boxes),
        corners(boxes),
        boxes['IsGroupOf'].astype(int),
        *columns(labels),
        labels['Confidence'].astype(float),
        hierarchy,
        verified_only=challenge,
    )
    detections = (*columns(predictions), predictions['Score'].astype(float), corners(predictions))
    weight = expected['group_of_weight']
    result = evaluate_detections(ground_truth, *detections, group_of_weight=weight)
    matches = match_detections(ground_truth, *detections, group_of_weight=weight)

    def figures(key):
        return [np.nan if expected[key][mid] is None else expected[key][mid] for mid in mids]

    np.testing.assert_allclose(result.ap, figures('AP'), rtol=0, atol=1e-9)
    assert result.mean_ap == pytest.approx(expected['mAP'], rel=0, abs=1e-9)
    assert result.num_images == expected['num_images']
    assert result.positives.tolist() == figures('num_gt')
    assert np.bincount(matches.label, minlength=len(mids)).tolist() == figures('num_scored')
    assert np.bincount(matches.label, matches.value, minlength=len(mids)).tolist() == figures('sum_tp')


def assert_agrees_with_oracle(case: Case) -> None:
    ap, positives = evaluate(case)
    with np.errstate(all='raise'):
        result = evaluate_detections(ground_truth_of(case), *detections_of(case), **settings_of(case))
    np.testing.assert_allclose(result.positives, positives, rtol=1e-12, err_msg=str(case))
    np.testing.assert_allclose(result.ap, ap, rtol=1e-12, atol=1e-12, err_msg=str(case))


@pytest.mark.parametrize('start', range(0, 2000, 500))
def test_random_cases_agree_with_the_plain_restatement(start):
    for seed in range(start, start + 500):
        assert_agrees_with_oracle(random_case(seed))


@pytest.mark.slow
@pytest.mark.parametrize('start', range(2000, 12_000, 2000))
def test_very_many_random_cases_agree_with_the_plain_restatement(start):
    for seed in range(start, start + 2000):
        assert_agrees_with_oracle(random_case(seed))


def test_the_random_cases_hold_all_that_is_difficult():
    seen = Counter(name for seed in range(500) for name in difficulties(random_case(seed)))
    assert set(seen) == DIFFICULTIES and min(seen.values()) >= 25, seen


corners = st.tuples(*[st.integers(0, 4)] * 2, *[st.integers(0, 4)] * 2)
upright = corners.map(lambda box: (min(box[::2]), min(box[1::2]), max(box[::2]), max(box[1::2])))
places = (st.integers(0, 1), st.integers(0, 2))
cases = st.builds(
    Case,
    num_images=st.just(2),
    num_classes=st.just(3),
    boxes=st.lists(st.tuples(*places, upright, st.booleans()), max_size=6),
    labels=st.lists(st.tuples(*places, st.sampled_from([0, 1])), max_size=3),
    detections=st.lists(st.tuples(*places, st.sampled_from([0.0, 0.3, 0.6, 0.9]), corners), max_size=8),
    parents=st.sampled_from([None, {1: [0], 2: [0, 1]}, {2: [0, 1]}, {}]),
    verified_only=st.booleans(),
    group_of_weight=st.sampled_from([0.0, 0.5, 1.0]),
)


@settings(max_examples=1000, deadline=None)
@given(cases)
def test_small_cases_agree_with_the_plain_restatement(case):
    assert_agrees_with_oracle(case)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(cases)
def test_very_many_small_cases_agree_with_the_plain_restatement(case):
    assert_agrees_with_oracle(case)


def matches_of(values: list[float], label: int = 0) -> Matches:
    count = len(values)
    score, found = np.linspace(1, 0, count), np.arange(0)
    return Matches(np.arange(count), np.full(count, label), score, np.array(values, dtype=float), found)


def test_average_precision_is_the_area_under_the_envelope():
    # Precision 1, 1/2, 2/3, 2/4, 3/5 at recall 1/4, ., 2/4, ., 3/4: the envelope is 1, 2/3, 3/5.
    ap = average_precision(matches_of([1, 0, 1, 0, 1]), [4])
    assert ap == pytest.approx([(1 + 2 / 3 + 3 / 5) / 4], abs=1e-15)


def test_classes_without_ground_truth_are_left_out_of_the_mean():
    ap = average_precision(matches_of([1, 0], label=1), [2, 1, 0])
    np.testing.assert_array_equal(ap, [0, 1, np.nan])
    assert mean_average_precision(ap) == 0.5


def test_without_any_ground_truth_the_mean_is_nan():
    case = Case(1, 2, labels=[(0, 0, 0)], detections=[(0, 0, 0.9, LEFT)])
    assert np.isnan(evaluate_detections(ground_truth_of(case), *detections_of(case)).mean_ap)


def test_positives_that_do_not_belong_to_the_matches_are_refused():
    with pytest.raises(ValueError, match=r'positives\[1\]: expects at least the true positives .*, got 1'):
        average_precision(matches_of([1, 1], label=1), [5, 1])
    with pytest.raises(ValueError, match=r'images\[0\]: expects 0 <= index < 1, got 4'):
        count_positives(ground_truth_of(one_image(singles=[LEFT])), images=[4])


def test_nothing_at_all_is_no_error():
    result = evaluate_detections(ground_truth_of(Case(0, 2)), [], [], [], [])
    assert np.isnan(result.ap).all() and len(Matches.concatenate([]).label) == 0
