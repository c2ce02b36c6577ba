"""Mistakes of a model, compared with hand-made cases and with the matching itself."""

import numpy as np
import pytest

from mmoid.openimages.metric.ground_truth import GroundTruth
from mmoid.openimages.metric.matching import match_detections
from mmoid.openimages.metric.worst_images import Verdict, count_mistakes, judge
from tests.openimages.metric.metric_cases import make_annotations

LEFT, RIGHT, BELOW = [0, 0, 0.4, 0.4], [0.5, 0, 0.9, 0.4], [0, 0.5, 0.4, 0.9]


def truth(image, label, box, group=None, verified=True):
    group = np.zeros(len(image)) if group is None else group
    annotations = make_annotations(2, ['a', 'b', 'c'], None, image, label, box, group)
    return GroundTruth.build(annotations, expand=False, verified_only=verified)


def test_verdicts_do_not_depend_on_the_order_of_detections():
    ground = truth([0, 0], [1, 1], [LEFT, BELOW], group=[0, 1])
    inside = [0.05, 0.55, 0.2, 0.7]
    # twice on the single box, equal scores; nowhere; in the group
    score, box = np.array([0.2, 0.7, 0.7, 0.9]), np.array([inside, LEFT, LEFT, RIGHT])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        verdict, found = judge(ground, 0, 1, score[order], box[order])
        assert verdict[order.index(0)] == Verdict.NOT_COUNTED and verdict[order.index(3)] == Verdict.FALSE
        first, second = sorted((order.index(1), order.index(2)))
        assert (verdict[first], verdict[second]) == (Verdict.TRUE, Verdict.FALSE), 'of equals the one given first'
        assert found.tolist() == [0]


def test_mistakes_are_missed_objects_and_scores_of_false_positives():
    ground = truth([0, 0, 1], [1, 1, 1], [LEFT, RIGHT, LEFT])
    matches = match_detections(ground, [0, 0, 1], [1, 1, 1], [0.9, 0.25, 0.8], [LEFT, BELOW, LEFT])
    mistakes = count_mistakes(ground, matches)
    assert mistakes.image.tolist() == [0, 1] and mistakes.label.tolist() == [1, 1]
    assert mistakes.missed.tolist() == [1, 0] and mistakes.false.tolist() == [0.25, 0]
    assert mistakes.worst_images(1, 5).tolist() == [0], 'an image without mistakes is not shown'
    assert not len(mistakes.worst_images(2, 5))
    mistakes = count_mistakes(ground, matches, score_threshold=0.85)
    assert mistakes.missed.tolist() == [1, 1] and mistakes.false.tolist() == [0, 0], 'found by too low a score'


def test_mistakes_agree_with_the_matching_on_random_boxes():
    rng = np.random.default_rng(0)

    def boxes(count):
        low = rng.uniform(0, 0.6, (count, 2))
        return np.concatenate([low, low + rng.uniform(0.1, 0.4, (count, 2))], axis=1)

    ground = truth(rng.integers(0, 2, 40), rng.integers(0, 3, 40), boxes(40), rng.integers(0, 2, 40))
    columns = rng.integers(0, 2, 200), rng.integers(0, 3, 200), rng.random(200), boxes(200)
    matches = match_detections(ground, *columns)
    mistakes = count_mistakes(ground, matches)
    assert mistakes.false.sum() == pytest.approx(matches.score[matches.value == 0].sum())
    assert mistakes.missed.sum() == 40 - matches.value.sum()
    above = match_detections(ground, *(column[columns[2] >= 0.4] for column in columns))
    alone, of_all = count_mistakes(ground, above), count_mistakes(ground, matches, score_threshold=0.4)
    assert of_all.missed.tolist() == alone.missed.tolist() and of_all.false.tolist() == alone.false.tolist()
    verdict, found = judge(ground, *columns)
    assert (verdict == Verdict.TRUE).sum() == match_detections(ground, *columns, group_of_weight=0).value.sum()
    assert len(found) == (verdict == Verdict.TRUE).sum()
    assert columns[2][verdict == Verdict.FALSE].sum() == pytest.approx(mistakes.false.sum())
