import numpy as np
import pytest

from mmoid.openimages.sampling import soft_balance
from mmoid.openimages.sampling.soft_balance import BalancedDraws, class_probabilities

COUNTS = np.array([5000, 700, 0, 90, 14, 3])


@pytest.mark.parametrize('balance', [0, 0.3, 0.7, 1.0, 1.5])
def test_probabilities_are_eq_8(balance):
    num_classes = (COUNTS > 0).sum()
    natural = COUNTS / COUNTS.sum()
    expected = [p * (1 / (num_classes * p)) ** balance if p else 0.0 for p in natural]
    assert np.allclose(class_probabilities(COUNTS, balance), np.array(expected) / sum(expected), rtol=1e-12, atol=0)


@pytest.mark.parametrize('balance', [-0.1, float('nan'), float('inf')])
def test_invalid_balance_raises(balance):
    with pytest.raises(ValueError, match=f'λ.*got {balance}'):
        class_probabilities(COUNTS, balance)


def test_no_image_at_all_raises_when_built():
    with pytest.raises(ValueError, match='no class has an image'):
        BalancedDraws(np.zeros(3), 0.5, draws_per_epoch=10, seed=0)


def test_very_large_balance_draws_only_the_rarest_class():
    assert class_probabilities(COUNTS, 1000.0).tolist() == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize('balance', [0, 0.7, 1.5])
def test_each_epoch_draws_every_class_within_one_of_its_expectation(balance):
    draws = BalancedDraws(COUNTS, balance, draws_per_epoch=997, seed=3)
    expected = 997 * class_probabilities(COUNTS, balance)
    for epoch in range(30):
        counts = draws.per_class_before(epoch + 1) - draws.per_class_before(epoch)
        assert counts.sum() == 997
        assert (np.abs(counts - expected) < 1).all()
        assert (np.bincount(draws.epoch(epoch)[0], minlength=len(COUNTS)) == counts).all()


def test_over_epochs_the_share_of_a_class_is_its_probability():
    draws = BalancedDraws(COUNTS, 0.7, draws_per_epoch=10, seed=0)
    epochs = 2000
    share = draws.per_class_before(epochs) / (10 * epochs)
    assert np.abs(share - class_probabilities(COUNTS, 0.7)).max() < 2e-4  # independent draws: about 3e-3


@pytest.mark.parametrize('draws_at_once', [1, 20, 4096])
def test_no_image_of_a_class_repeats_before_all_were_drawn_across_epochs(monkeypatch, draws_at_once):
    monkeypatch.setattr(soft_balance, 'DRAWS_AT_ONCE', draws_at_once)
    draws = BalancedDraws(COUNTS, 1.0, draws_per_epoch=600, seed=5)
    label, position = (np.concatenate(column) for column in zip(*map(draws.epoch, range(25))))
    for k, size in enumerate(COUNTS):
        drawn = position[label == k].tolist()
        for start in range(0, len(drawn), max(1, size)):
            walk = drawn[start : start + size]
            assert len(set(walk)) == len(walk), (k, start)
        assert len(drawn) > 3 * size or k in (0, 2)


def test_draws_are_a_pure_function_of_seed_and_epoch():
    first, again, other = (BalancedDraws(COUNTS, 0.7, 500, seed) for seed in (1, 1, 2))
    first.epoch(0)
    assert all((a == b).all() for a, b in zip(first.epoch(7), again.epoch(7)))
    assert (first.epoch(7)[0] != other.epoch(7)[0]).any()
    assert (first.epoch(7)[0] != first.epoch(8)[0]).any()


def test_every_order_of_a_class_is_equally_likely():
    draws = BalancedDraws(np.array([3]), 1.0, draws_per_epoch=3 * 12_000, seed=0)
    walks = draws.epoch(1)[1].reshape(-1, 3)
    orders, counts = np.unique(walks, axis=0, return_counts=True)
    assert len(orders) == 6
    assert np.abs(counts - 2000).max() < 6 * np.sqrt(2000)  # six standard deviations
