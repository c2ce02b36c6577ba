"""Mistakes of one model, compared with hand-made cases and the matching itself; two models compared."""

import numpy as np
import pytest

from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.metric import mistakes
from mmoid.openimages.metric.average_precision import average_precision, count_positives
from mmoid.openimages.metric.evaluator import Evaluator
from mmoid.openimages.metric.matching import GroundTruth, Matches, match_detections
from mmoid.openimages.metric.mistakes import KINDS, Verdict, bootstrap, count_mistakes, error_kinds, judge
from mmoid.openimages.predictions.prediction_store import Detections
from tests.official_files import tree
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


TREE = tree({'fruit': {'apple': {}, 'pear': {}}, 'car': {}})
NAMES = ('apple', 'pear', 'fruit', 'car')
APPLE, PEAR, FRUIT, CAR = range(4)


def annotations_of(image, label, box, num_images, absent=()):
    """No group-of boxes; ``absent`` are (image, class) pairs."""
    labels = zip(*((*pair, 0) for pair in absent)) if absent else ()
    group = np.zeros(len(image))
    return make_annotations(num_images, NAMES, ClassHierarchy(TREE, NAMES), image, label, box, group, *labels)


def random_case(seed, num_images=12):
    rng = np.random.default_rng(seed)
    image, label = rng.integers(num_images, size=40), rng.choice([APPLE, PEAR, CAR], 40)
    low = rng.random((40, 2)) * 0.5
    box = np.concatenate([low, low + 0.3], axis=1)
    evaluator = Evaluator(annotations_of(image, label, box, num_images))
    sides = []
    for noise in (0.02, 0.1):
        rows = rng.permutation(40)[:30]
        moved = box[rows] + rng.normal(0, noise, (30, 4))
        sides.append(evaluator.match(Detections(image[rows], label[rows], rng.random(30), moved)))
    return evaluator, sides


@pytest.mark.parametrize('seed', range(3))
def test_a_draw_has_the_map_of_a_set_that_holds_its_images_so_many_times(seed, monkeypatch):
    evaluator, sides = random_case(seed)
    truth = evaluator.ground_truth
    monkeypatch.setattr(mistakes, 'ELEMENTS_AT_ONCE', 50)
    (found,) = bootstrap(truth, *sides, [np.arange(4)], samples=20, seed=seed)
    rng, means = np.random.default_rng(seed), []
    for draw in [np.arange(12), *(rng.integers(12, size=12) for _ in range(20))]:
        positives = sum(count_positives(truth, images=[image]) for image in draw)
        with np.errstate(all='ignore'):
            ap = [average_precision(repeated(side, draw), positives) for side in sides]
            means.append(np.nanmean(ap[1]) - np.nanmean(ap[0]))
    assert found.value == pytest.approx(means[0], abs=1e-9)
    assert (found.low, found.high) == pytest.approx(np.quantile(means[1:], (0.025, 0.975)), abs=1e-9)


def repeated(matches, draw):
    """Matches of the images of a draw, each copy as an image of its own."""
    rows = [np.flatnonzero(matches.image == image) for image in draw]
    chosen = np.concatenate(rows)
    image = np.repeat(np.arange(len(draw)), [len(part) for part in rows])
    return Matches(image, matches.label[chosen], matches.score[chosen], matches.value[chosen], matches.found[:0])


def test_a_set_does_not_differ_from_itself_and_a_class_without_ground_truth_has_no_difference():
    evaluator = Evaluator(annotations_of([0, 1], [APPLE, APPLE], [(0, 0, 1, 1)] * 2, 2))
    found = Detections(np.array([0]), np.array([APPLE]), np.array([0.5]), np.array([[0, 0, 1, 1.0]]))
    matches = evaluator.match(found)
    same, none = bootstrap(evaluator.ground_truth, matches, matches, [np.arange(4), np.array([CAR])], samples=10)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert np.isnan([none.value, none.low, none.high]).all()
    with pytest.raises(ValueError, match='samples must be at least 2, got 1'):
        bootstrap(evaluator.ground_truth, matches, matches, [], samples=1)


def test_errors_have_the_first_kind_that_fits():
    apple, car = (0, 0, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9)
    annotations = annotations_of([0, 0, 1], [APPLE, CAR, FRUIT], [apple, car, apple], 2, [(0, PEAR), (1, APPLE)])
    near, elsewhere = (0.2, 0, 0.6, 0.4), (0.6, 0, 0.9, 0.2)
    expected = [
        (0, APPLE, 0.9, apple, None),
        (0, FRUIT, 0.9, apple, None),
        (0, APPLE, 0.8, apple, 'duplicate'),
        (0, APPLE, 0.8, near, 'localisation'),
        (0, PEAR, 0.8, apple, 'sibling'),
        (1, APPLE, 0.8, apple, 'ancestor'),
        (0, CAR, 0.8, apple, 'other class'),
        (0, CAR, 0.8, elsewhere, 'background'),
        (1, CAR, 0.8, apple, 'unverified'),
    ]
    image, label, score, box, kinds = (np.array(column, dtype=object) for column in zip(*expected))
    box = np.array(box.tolist(), dtype=float)
    truth = Evaluator(annotations).ground_truth
    found = Detections(image.astype(int), label.astype(int), score.astype(float), box)
    given = error_kinds(annotations, truth, found)
    assert [None if kind < 0 else list(KINDS)[kind] for kind in given] == list(kinds)
