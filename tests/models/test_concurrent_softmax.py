"""Eq. 3-5 against a version that a reader can compare with the paper."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmoid.models.losses import concurrent_softmax, concurrent_softmax_loss
from tests.models.concurrent_oracle import eq_3, eq_4, eq_5


def random_case(seed, scale, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    rows, channels = (
        int(torch.randint(1, 8, (), generator=generator)),
        int(torch.randint(2, 9, (), generator=generator)),
    )
    logits = torch.randn(rows, channels, generator=generator) * scale + offset
    targets = torch.rand(rows, channels, generator=generator) < 0.35
    targets[0] = False
    targets[0, -1] = True
    rates = torch.rand(channels, channels, generator=generator)
    kind = torch.randint(0, 3, rates.shape, generator=generator)
    rates = torch.where(kind == 0, 0.0, torch.where(kind == 1, 1.0, rates))
    rates[-1] = 0
    rates[:, -1] = 0
    return logits, targets, rates


@pytest.mark.parametrize(('scale', 'offset'), [(1.0, 0), (30.0, 0), (300.0, 0), (1e4, 0), (3.0, 1e4), (3.0, -1e4)])
@pytest.mark.parametrize('seed', range(25))
def test_loss_gradient_and_activation_are_those_of_the_paper(seed, scale, offset):
    """Relative errors of float32, however large the logits; near 0 the rounding of 1, as in cross-entropy."""
    logits, targets, rates = random_case(seed, scale, offset)
    logits.requires_grad_()
    losses = concurrent_softmax_loss(logits, targets, rates)
    losses.sum().backward()
    z, y, r = logits.detach().double().tolist(), targets.long().tolist(), rates.double().tolist()
    expected = torch.tensor([eq_3(z[n], y[n], r) for n in range(len(z))], dtype=torch.float64)
    assert torch.allclose(losses.double(), expected, rtol=1e-6, atol=2e-7)
    gradient = torch.tensor([eq_4(z[n], y[n], r) for n in range(len(z))], dtype=torch.float64)
    assert torch.allclose(logits.grad.double(), gradient, rtol=3e-6, atol=2e-7)
    scores = concurrent_softmax(logits.detach(), rates)
    activation = torch.tensor([eq_5(z[n], r) for n in range(len(z))], dtype=torch.float64)
    assert torch.allclose(scores.double(), activation, rtol=1e-5, atol=1e-24)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_confident_box_of_several_labels_keeps_the_digits_of_its_loss():
    # A loss of 1e-9 is nothing beside 1; it must not be computed as a difference from 1.
    logits = torch.tensor([[21.0, 20.5, 0.0, 0.25]], requires_grad=True)
    targets = torch.tensor([[True, True, False, False]])
    loss = concurrent_softmax_loss(logits, targets, torch.zeros(4, 4))
    loss.sum().backward()
    z, y, r = logits.tolist()[0], [1, 1, 0, 0], torch.zeros(4, 4).tolist()
    assert loss.item() == pytest.approx(eq_3(z, y, r), rel=1e-6, abs=0) and loss.item() < 1e-8
    assert logits.grad[0].tolist() == pytest.approx(eq_4(z, y, r), rel=2e-6, abs=0)


@pytest.mark.parametrize('seed', range(10))
def test_float64_is_exact_and_passes_a_finite_difference_check(seed):
    logits, targets, rates = random_case(seed, 2.0)
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: concurrent_softmax_loss(x, targets, rates), logits)
    z, r = logits.tolist(), rates.double().tolist()
    expected = [eq_3(z[n], targets.long().tolist()[n], r) for n in range(len(z))]
    assert concurrent_softmax_loss(logits, targets, rates.double()).tolist() == pytest.approx(expected, rel=1e-12)


def test_one_label_and_no_concurrence_is_cross_entropy():
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 11) * 5, torch.randint(0, 11, (50,))
    targets = F.one_hot(labels, 11).bool()
    losses = concurrent_softmax_loss(logits, targets, torch.zeros(11, 11))
    assert torch.allclose(losses, F.cross_entropy(logits, labels, reduction='none'), rtol=1e-6, atol=1e-6)
    # ... also by the way that concurrent rows go.
    rates = torch.zeros(11, 11)
    rates[:, 0] = 1e-20
    assert torch.allclose(concurrent_softmax_loss(logits, targets, rates), losses, rtol=1e-6, atol=1e-6)
    assert torch.allclose(concurrent_softmax(logits, torch.zeros(11, 11)), logits.softmax(1), rtol=1e-5, atol=1e-7)


def test_the_diagonal_of_the_rates_is_ignored():
    logits, targets, rates = random_case(3, 2.0)
    with_diagonal = rates.clone().fill_diagonal_(0.7)
    without = rates.clone().fill_diagonal_(0)
    assert torch.equal(
        concurrent_softmax_loss(logits, targets, with_diagonal), concurrent_softmax_loss(logits, targets, without)
    )
    assert torch.equal(concurrent_softmax(logits, with_diagonal), concurrent_softmax(logits, without))


def test_a_small_logit_beside_a_large_concurrent_one_is_not_lost():
    # The plain matmul form gives 0 / 0 here: e^-200 is nothing in float32.
    logits = torch.tensor([[200.0, 0.0, 0.5]], requires_grad=True)
    rates = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    expected = math.exp(0.0) / (math.exp(0.0) + math.exp(0.5))
    assert concurrent_softmax(logits, rates)[0, 1].item() == pytest.approx(expected, rel=1e-6)
    loss = concurrent_softmax_loss(logits, torch.tensor([[False, True, False]]), rates)
    loss.sum().backward()
    assert loss.item() == pytest.approx(-math.log(expected), rel=1e-6)
    assert logits.grad[0].tolist() == pytest.approx([0, expected - 1, 1 - expected], rel=1e-5)


def test_rows_may_sum_to_more_than_one():
    rates = torch.ones(3, 3)
    rates[2] = 0
    rates[:, 2] = 0
    assert concurrent_softmax(torch.tensor([[9.0, 8.0, 0.0]]), rates)[0, :2].sum() > 1.9


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    logits, targets, rates = random_case(1, 10.0)
    halves = logits.to(dtype)
    losses = concurrent_softmax_loss(halves, targets, rates)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, concurrent_softmax_loss(halves.float(), targets, rates))
    assert torch.equal(concurrent_softmax(halves, rates), concurrent_softmax(halves.float(), rates))


def test_autocast_changes_nothing():
    logits, targets, rates = random_case(2, 10.0)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = concurrent_softmax_loss(logits, targets, rates)
        scores = concurrent_softmax(logits, rates)
    assert torch.equal(losses, concurrent_softmax_loss(logits, targets, rates))
    assert torch.allclose(scores, concurrent_softmax(logits, rates), rtol=1e-6)


@pytest.mark.parametrize('value', [1e4, -1e4, 1e37, 3e38])
def test_any_finite_logits_give_finite_results(value):
    for seed in range(10):
        _, targets, rates = random_case(seed, 1.0)
        for logits in (
            torch.full(targets.shape, value),
            torch.where(targets, -value, value),
            torch.where(targets, value, 0),
            torch.where(torch.rand(targets.shape) < 0.5, value, -value),
        ):
            logits = logits.clone().requires_grad_()
            losses = concurrent_softmax_loss(logits, targets, rates)
            losses.sum().backward()
            # Losses of several labels may sum to more than the largest float32, 3.4e38.
            assert losses.isfinite().all() or (value > 1e38 and not losses.isnan().any())
            assert logits.grad.isfinite().all()
            assert concurrent_softmax(logits.detach(), rates).isfinite().all()


def test_nothing_in_is_nothing_out():
    empty = torch.zeros(0, 5, requires_grad=True)
    losses = concurrent_softmax_loss(empty, torch.zeros(0, 5, dtype=torch.bool), torch.zeros(5, 5))
    assert losses.shape == (0,)
    losses.sum().backward()
    assert concurrent_softmax(empty, torch.zeros(5, 5)).shape == (0, 5)
