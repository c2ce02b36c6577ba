import numpy as np
import pytest

from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.metric import comparison
from mmoid.openimages.metric.average_precision import average_precision, count_positives
from mmoid.openimages.metric.comparison import KINDS, bootstrap, error_kinds
from mmoid.openimages.metric.evaluator import Evaluator
from mmoid.openimages.metric.matching import Matches
from tests.official_files import tree
from tests.openimages.metric.metric_cases import make_annotations

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
        sides.append(evaluator.match(image[rows], label[rows], rng.random(30), moved))
    return evaluator, sides


@pytest.mark.parametrize('seed', range(3))
def test_a_draw_has_the_map_of_a_set_that_holds_its_images_so_many_times(seed, monkeypatch):
    evaluator, sides = random_case(seed)
    truth = evaluator.ground_truth
    monkeypatch.setattr(comparison, 'ELEMENTS_AT_ONCE', 50)
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
    matches = evaluator.match(np.array([0]), np.array([APPLE]), np.array([0.5]), np.array([[0, 0, 1, 1.0]]))
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
    found = error_kinds(annotations, truth, image.astype(int), label.astype(int), score.astype(float), box)
    assert [None if kind < 0 else list(KINDS)[kind] for kind in found] == list(kinds)
