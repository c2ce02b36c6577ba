"""Eq. 6-8 and the draws."""

import numpy as np
import pytest

from mmoid.openimages.sampling.soft_balance import BalancedDraws, class_probabilities, permuted_index

COUNTS = np.array([5000, 700, 0, 90, 14, 3])


@pytest.mark.parametrize('balance', [0, 0.3, 0.5, 0.7, 1.0, 1.5])
def test_probabilities_are_eq_8(balance):
    num_classes = (COUNTS > 0).sum()
    natural = COUNTS / COUNTS.sum()
    expected = [p * (1 / (num_classes * p)) ** balance if p else 0.0 for p in natural]
    assert np.allclose(class_probabilities(COUNTS, balance), np.array(expected) / sum(expected), rtol=1e-12, atol=0)


def test_lambda_0_is_natural_and_1_is_class_aware():
    assert np.allclose(class_probabilities(COUNTS, 0), COUNTS / COUNTS.sum())
    assert np.allclose(class_probabilities(COUNTS, 1), np.where(COUNTS > 0, 0.2, 0))


@pytest.mark.parametrize('balance', [-0.1, float('nan'), float('inf')])
def test_a_bad_lambda_is_refused(balance):
    with pytest.raises(ValueError, match=f'λ.*got {balance}'):
        class_probabilities(COUNTS, balance)


def test_no_image_at_all_is_refused():
    with pytest.raises(ValueError, match='no class has an image'):
        class_probabilities(np.zeros(3), 0.5)
    with pytest.raises(ValueError, match='no class has an image'):  # when made, not when the first epoch is drawn
        BalancedDraws(np.zeros(3), 0.5, draws_per_epoch=10, seed=0)


def test_a_very_large_lambda_draws_the_rarest_class_alone():
    assert class_probabilities(COUNTS, 1000.0).tolist() == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize('balance', [0, 0.3, 0.5, 0.7, 1.0, 1.5])
def test_each_epoch_draws_every_class_within_one_of_its_expectation(balance):
    draws = BalancedDraws(COUNTS, balance, draws_per_epoch=997, seed=3)
    expected = 997 * class_probabilities(COUNTS, balance)
    for epoch in range(30):
        counts = draws.per_class(epoch)
        assert counts.sum() == 997
        assert (np.abs(counts - expected) < 1).all()
        assert (np.bincount(draws.epoch(epoch)[0], minlength=len(COUNTS)) == counts).all()


def test_over_epochs_the_share_of_a_class_is_its_probability_exactly():
    draws = BalancedDraws(COUNTS, 0.7, draws_per_epoch=10, seed=0)
    epochs = 2000
    share = draws.per_class_before(epochs) / (10 * epochs)
    assert np.abs(share - class_probabilities(COUNTS, 0.7)).max() < 2e-4  # independent draws: about 3e-3
    # However many epochs came before: counted in parts, so that thousands of short ones take no memory.
    assert (draws.per_class_before(epochs) == sum(draws.per_class(epoch) for epoch in range(epochs))).all()


def test_no_image_of_a_class_repeats_before_all_were_drawn_across_epochs_too():
    draws = BalancedDraws(COUNTS, 1.0, draws_per_epoch=600, seed=5)
    series = {label: [] for label in np.flatnonzero(COUNTS)}
    for epoch in range(25):
        for label in series:
            first = draws.per_class_before(epoch)[label]
            assert first == len(series[label])
            drawn_label, position = draws.epoch(epoch)
            series[label] += position[drawn_label == label].tolist()
    for label, drawn in series.items():
        for start in range(0, len(drawn), COUNTS[label]):
            walk = drawn[start : start + COUNTS[label]]
            assert len(set(walk)) == len(walk), (label, start)
        assert len(drawn) > 3 * COUNTS[label] or label == 0


def test_draws_are_a_pure_function_of_seed_and_epoch():
    first = BalancedDraws(COUNTS, 0.7, 500, seed=1)
    again = BalancedDraws(COUNTS, 0.7, 500, seed=1)
    first.epoch(0)
    assert all((a == b).all() for a, b in zip(first.epoch(7), again.epoch(7)))
    other = BalancedDraws(COUNTS, 0.7, 500, seed=2)
    assert (first.epoch(7)[0] != other.epoch(7)[0]).any()
    assert (first.epoch(7)[0] != first.epoch(8)[0]).any()


@pytest.mark.parametrize('size', [1, 2, 3, 4, 5, 14, 100])
def test_permuted_index_is_a_permutation_with_every_value_equally_likely(size):
    keys = np.random.default_rng(0).integers(0, 2**63, 20000).astype(np.uint64)
    columns = [permuted_index(np.full(len(keys), i), np.full(len(keys), size), keys) for i in range(size)]
    permutations = np.stack(columns, axis=1)
    assert (np.sort(permutations, axis=1) == np.arange(size)).all()
    for column in columns:  # chi-square with size - 1 degrees of freedom, six standard deviations
        observed = np.bincount(column, minlength=size)
        statistic = ((observed - len(keys) / size) ** 2 / (len(keys) / size)).sum()
        assert statistic <= (size - 1) + 6 * np.sqrt(2 * max(size - 1, 1))


def test_successive_walks_come_in_different_order():
    draws = BalancedDraws(np.array([50]), 1.0, draws_per_epoch=50, seed=0)
    orders = {tuple(draws.epoch(epoch)[1].tolist()) for epoch in range(10)}
    assert len(orders) == 10
    assert all(sorted(order) == list(range(50)) for order in orders)
