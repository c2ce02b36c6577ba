"""Average precision against a plain restatement of the official rules."""

import numpy as np
import pytest

from mmoid.openimages.metric.average_precision import average_precision, mean_average_precision
from mmoid.openimages.metric.matching import Matches
from tests.openimages.metric.metric_cases import ap_and_positives, random_case
from tests.openimages.metric.metric_oracle import Case, evaluate


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
