"""Coverage of draws: expected, counted, and the figures of Sec. 3 of the paper."""

from itertools import combinations, product

import numpy as np
import pytest
from pyarrow import csv
from scipy.sparse import csr_array

from mmoid.openimages.sampling.coverage import (
    ImageLists,
    counted_coverage,
    expected_coverage,
    head_middle_tail,
    plan_sampling,
)
from mmoid.openimages.sampling.soft_balance import BalancedDraws
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.real_stores import open_images, sample


def lists(classes, boxes):
    """From a list of images for each class."""
    holds = np.array([[image in row for image in range(len(boxes))] for row in classes])
    return ImageLists(csr_array(holds), np.array(boxes))


@pytest.fixture(scope='module')
def real_lists(tmp_path_factory):
    return ImageLists.of_store(AnnotationStore(sample(tmp_path_factory.mktemp('real'))))


def every_outcome(classes, draws, num_images):
    """(outcomes, N) times that each image is seen, for every outcome of whole and partial permutations."""
    ways = []
    for images, count in zip(classes, draws):
        walks, rest = divmod(count, len(images))
        ways.append([[walks + (image in chosen) for image in images] for chosen in combinations(images, rest)])
    for outcome in product(*ways):
        times = np.zeros(num_images)
        for images, counts in zip(classes, outcome):
            times[images] += counts
        yield times


@pytest.mark.parametrize('draws', [[1, 2, 3], [2, 1, 0], [3, 7, 1], [0, 0, 1], [5, 3, 2]])
def test_the_expectation_is_the_mean_over_all_outcomes(draws):
    classes = [[0, 1, 2, 3], [1, 3, 4], [4, 0]]  # image 5 has no class
    boxes = np.array([3, 1, 4, 1, 5, 9])
    outcomes = np.array(list(every_outcome(classes, draws, 6)))
    unseen = (outcomes == 0).mean(axis=0)
    coverage = expected_coverage(lists(classes, boxes), np.array(draws))
    assert coverage.seen == pytest.approx([outcomes.mean(axis=0)[row].mean() for row in classes], abs=1e-12)
    assert coverage.unseen == pytest.approx([unseen[row].mean() for row in classes], abs=1e-12)
    assert coverage.images_unseen == pytest.approx(unseen[:5].mean(), abs=1e-12)
    assert coverage.boxes_unseen == pytest.approx((unseen * boxes)[:5].sum() / boxes[:5].sum(), abs=1e-12)
    assert coverage.neglected == pytest.approx([max(0, 1 - m / len(row)) for m, row in zip(draws, classes)])


@pytest.mark.parametrize('balance', [0, 0.7, 1.5])
def test_real_draws_show_what_is_expected(real_lists, balance):
    expected = plan_sampling(real_lists, balance, epochs=3)
    counted = plan_sampling(real_lists, balance, epochs=3, seed=0)
    assert expected.samples_per_epoch == counted.samples_per_epoch == 3102
    for a, b in ((expected.one_epoch, counted.one_epoch), (expected.all_epochs, counted.all_epochs)):
        assert np.abs(a.draws - b.draws).max() < 3
        # 3,102 images: one standard deviation is below 0.01.
        assert a.images_unseen == pytest.approx(b.images_unseen, abs=0.03)
        assert a.boxes_unseen == pytest.approx(b.boxes_unseen, abs=0.03)
        frequent = real_lists.image_counts > 500
        assert a.unseen[frequent] == pytest.approx(b.unseen[frequent], abs=0.05)
        assert a.seen[frequent] == pytest.approx(b.seen[frequent], rel=0.1)


def test_counted_draws_are_those_of_each_epoch():
    one = lists([[0, 1, 2, 3, 4, 5, 6]], np.ones(7))
    first, third = counted_coverage(one, BalancedDraws(one.image_counts, 1.0, 5, seed=0), [1, 3])
    assert first.draws == [5] and third.draws == [15]
    assert first.images_unseen == pytest.approx(2 / 7) and third.images_unseen == 0
    assert third.seen == pytest.approx([15 / 7])


def test_figures_of_section_3_are_reproduced():
    boxes = csv.read_csv(str(open_images('classes/challenge-train-box-counts-500.csv')))['count'].to_numpy()
    # Images of each class: of the rarest one for each box, of the most frequent 400,700 for 1,418,594 boxes.
    power = np.log(400_700 / 14) / np.log(boxes.max() / 14)
    counts = np.round(14 * (boxes / 14) ** power).astype(np.int64)
    assert (counts.max(), counts.min(), len(counts)) == (400_700, 14, 500)
    num_images = 1_743_042
    stop = np.cumsum(counts)
    assert stop[-1] > 1.5 * num_images  # several classes in an image
    holds = csr_array((np.ones(stop[-1], bool), np.arange(stop[-1]) % num_images, [0, *stop]), (500, num_images))
    challenge = ImageLists(holds, np.full(num_images, 7))
    plan = plan_sampling(challenge, 1.0, epochs=7)
    head, rarest = counts.argmax(), counts.argmin()
    assert plan.samples_per_epoch == num_images
    assert plan.one_epoch.draws == pytest.approx(np.full(500, 3486.084))
    assert round(100 * plan.one_epoch.neglected[head], 2) == 99.13
    assert plan.one_epoch.drawn[rarest] == pytest.approx(3486.084 / 14) == pytest.approx(252, rel=0.02)
    # An image of the head class is also drawn for its other classes.
    assert plan.one_epoch.unseen[head] < plan.one_epoch.neglected[head]
    assert plan.one_epoch.seen[head] > plan.one_epoch.drawn[head]
    soft = plan_sampling(challenge, 0.7, epochs=7)
    assert soft.one_epoch.neglected[head] < plan.one_epoch.neglected[head]
    assert soft.one_epoch.drawn[rarest] < plan.one_epoch.drawn[rarest]
    assert soft.all_epochs.images_unseen < plan.all_epochs.images_unseen < plan.one_epoch.images_unseen


def test_a_store_is_counted_with_and_without_ancestors(tiny_data):
    store = AnnotationStore(tiny_data / 'train')
    for expand in (True, False):
        found = ImageLists.of_store(store, expand)
        assert (found.image_counts == store.class_image_counts(expand)).all()
        assert found.boxes.sum() == store.num_boxes


def test_a_class_without_images_is_neither_seen_nor_neglected():
    empty = lists([[0, 1], [], [1]], [1, 1, 1])
    plan = plan_sampling(empty, 1.0, epochs=2, samples_per_epoch=1)
    assert plan.one_epoch.draws.tolist() == [0.5, 0, 0.5]
    assert plan.one_epoch.seen[1] == plan.one_epoch.unseen[1] == plan.one_epoch.neglected[1] == 0
    assert plan.one_epoch.neglected.tolist() == [0.75, 0, 0.5]


def test_head_middle_and_tail_hold_classes_with_images():
    parts = head_middle_tail(np.array([5, 0, 900, 7, 0, 80, 6, 1]))
    assert [part.tolist() for part in parts] == [[2, 5], [3, 6], [0, 7]]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(balance=0.5, epochs=0), 'epochs must be at least 1, got 0'),
        (dict(balance=0.5, epochs=1, samples_per_epoch=0), 'samples_per_epoch must be at least 1, got 0'),
    ],
)
def test_invalid_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        plan_sampling(lists([[0]], [1]), **options)
