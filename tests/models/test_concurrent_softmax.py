"""Eq. 3-5: the pure functions and the module with all its options, compared with the loops of concurrent_oracle.py."""

import numpy as np
import pytest
import torch

import mmoid
from mmoid.models.losses import concurrent_softmax, concurrent_softmax_loss
from tests.models.concurrent_oracle import eq_3, eq_4, eq_5

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU'))]


def random_case(seed, scale, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    rows, channels = (int(torch.randint(low, 9, (), generator=generator)) for low in (1, 2))
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


@pytest.mark.parametrize('form', [torch.Tensor.clone, torch.Tensor.to_sparse])
@pytest.mark.parametrize(('scale', 'offset'), [(1.0, 0), (30.0, 0), (300.0, 0), (1e4, 0), (3.0, 1e4), (3.0, -1e4)])
@pytest.mark.parametrize('seed', range(25))
def test_loss_gradient_and_scores_match_the_paper(seed, scale, offset, form):
    """Relative errors of float32, however large the logits; near 0 the rounding of 1, as in cross-entropy."""
    logits, targets, rates = random_case(seed, scale, offset)
    logits.requires_grad_()
    losses = concurrent_softmax_loss(logits, targets, form(rates))
    losses.sum().backward()
    z, y, r = logits.detach().double().tolist(), targets.long().tolist(), rates.double().tolist()
    expected = torch.tensor([eq_3(z[n], y[n], r) for n in range(len(z))], dtype=torch.float64)
    assert torch.allclose(losses.double(), expected, rtol=1e-6, atol=2e-7)
    gradient = torch.tensor([eq_4(z[n], y[n], r) for n in range(len(z))], dtype=torch.float64)
    assert torch.allclose(logits.grad.double(), gradient, rtol=3e-6, atol=2e-7)
    scores = concurrent_softmax(logits.detach(), form(rates))
    activation = torch.tensor([eq_5(z[n], r) for n in range(len(z))], dtype=torch.float64)
    assert torch.allclose(scores.double(), activation, rtol=1e-5, atol=1e-24)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_small_losses_keep_their_digits():
    logits = torch.tensor([[21.0, 20.5, 0.0, 0.25]], requires_grad=True)
    targets = torch.tensor([[True, True, False, False]])
    loss = concurrent_softmax_loss(logits, targets, torch.zeros(4, 4))
    loss.sum().backward()
    z, y, r = logits.tolist()[0], [1, 1, 0, 0], torch.zeros(4, 4).tolist()
    assert loss.item() == pytest.approx(eq_3(z, y, r), rel=2e-6, abs=0) and loss.item() < 1e-8
    assert logits.grad[0].tolist() == pytest.approx(eq_4(z, y, r), rel=2e-6, abs=0)


@pytest.mark.parametrize('seed', range(10))
def test_float64_is_exact_and_passes_a_finite_difference_check(seed):
    logits, targets, rates = random_case(seed, 2.0)
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: concurrent_softmax_loss(x, targets, rates), logits)
    z, r = logits.tolist(), rates.double().tolist()
    expected = [eq_3(z[n], targets.long().tolist()[n], r) for n in range(len(z))]
    assert concurrent_softmax_loss(logits, targets, rates.double()).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_diagonal_of_the_rates_is_ignored():
    logits, targets, rates = random_case(3, 2.0)
    filled, zero = (rates.clone().fill_diagonal_(value) for value in (0.7, 0))
    assert torch.equal(concurrent_softmax_loss(logits, targets, filled), concurrent_softmax_loss(logits, targets, zero))
    assert torch.equal(concurrent_softmax(logits, filled), concurrent_softmax(logits, zero))
    scores = [concurrent_softmax(logits, rates.to_sparse()) for rates in (filled, zero)]
    assert torch.equal(*scores)


def test_a_label_without_competitors_has_loss_and_gradient_zero():
    logits = torch.tensor([[3.0, -1e4, 2.0]], requires_grad=True)
    losses = concurrent_softmax_loss(logits, torch.tensor([[True, True, False]]), torch.ones(3, 3))
    losses.sum().backward()
    assert losses.tolist() == [0] and logits.grad.tolist() == [[0, 0, 0]]
    assert concurrent_softmax(logits.detach(), torch.ones(3, 3)).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize('value', [1e4, -1e4, 1e37, 3e38])
def test_any_finite_logits_give_finite_gradients_and_scores(value):
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
            # A difference of logits may exceed the largest float32, 3.4e38.
            assert losses.isfinite().all() or (value > 1e38 and not losses.isnan().any())
            assert logits.grad.isfinite().all()
            assert concurrent_softmax(logits.detach(), rates).isfinite().all()
            assert concurrent_softmax(logits.detach(), rates.to_sparse()).isfinite().all()


def random_module(rng, classes):
    """A loss with random options, what they mean as rates (C+1, C+1) and class weights, and the options."""
    rates = rng.random((classes, classes)).astype(np.float32)
    rates[rng.random(rates.shape) < 0.4] = 0
    rates[rng.random(rates.shape) < 0.2] = 1
    options = dict(hierarchy_rate=float(rng.choice([0.0, 0.25, 1.0])), loss_weight=float(rng.choice([1.0, 2.5])))
    ancestors = np.triu(rng.random((classes, classes)) < 0.3, 1)
    if rng.random() < 0.5:
        options['hierarchy'] = ancestors
    if rng.random() < 0.5:
        options['class_weight'] = (rng.random(classes) * 2).astype(np.float32)
    module = mmoid.ConcurrentSoftmaxLoss(classes, rates, **options)
    expected = np.zeros((classes + 1, classes + 1))
    expected[:-1, :-1] = rates
    if 'hierarchy' in options:
        expected[:-1, :-1][ancestors | ancestors.T] = options['hierarchy_rate']
    weights = [*np.asarray(options.get('class_weight', [1.0] * classes)).tolist(), 1.0]
    return module, expected.tolist(), weights, options


def random_labels(rng, rows, classes):
    """Label sets in one of the forms that the loss takes, and as lists of 0 and 1 with background last."""
    sets = rng.random((rows, classes)) < rng.choice([0.0, 0.3, 1.0])
    form = rng.choice(['sets', 'float', 'with background', 'indices'])
    if form == 'indices':
        sets &= np.cumsum(sets, axis=1) == 1
    full = np.concatenate([sets, ~sets.any(axis=1, keepdims=True)], axis=1)
    labels = {'sets': sets, 'float': sets.astype(np.float32), 'with background': full, 'indices': full.argmax(axis=1)}
    return torch.from_numpy(labels[form]), full.astype(int).tolist()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('seed', range(30))
def test_every_option_of_the_module_means_what_the_formulas_say(seed, dtype, device):
    rng = np.random.default_rng(seed)
    classes, rows = int(rng.integers(1, 8)), int(rng.integers(0, 7))
    module, rates, weights, options = random_module(rng, classes)
    logits = rng.normal(rng.choice([0, 0, 5e3]), rng.choice([1, 20, 1e4]), (rows, classes + 1)).clip(-1e4, 1e4)
    logits = torch.from_numpy(logits.astype(np.float32)).to(device, dtype).requires_grad_()
    labels, y = random_labels(rng, rows, classes)
    weight = torch.from_numpy(rng.choice([0, 1, 0.5], rows).astype(np.float32)) if seed % 2 else None
    reduction = str(rng.choice(['mean', 'sum', 'none']))
    avg_factor = 7.0 if reduction == 'mean' and rng.random() < 0.5 else None
    module, labels = module.to(device), labels.to(device)
    on_device = None if weight is None else weight.to(device)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=seed % 3 == 0):
        loss = module(logits, labels, on_device, avg_factor=avg_factor, reduction_override=reduction)
        scores = module.get_activation(logits.detach())
    loss.sum().backward()

    z = logits.detach().double().tolist()
    factor = options['loss_weight'] / {'none': 1, 'sum': 1, 'mean': avg_factor or max(rows, 1)}[reduction]
    of_rows = [factor] * rows if weight is None else [factor * value for value in weight.tolist()]
    losses = [of_rows[n] * eq_3(z[n], y[n], rates, weights) for n in range(rows)]
    assert loss.dtype == scores.dtype == torch.float32
    assert loss.tolist() == pytest.approx(losses if reduction == 'none' else sum(losses), rel=1e-6, abs=2e-6)
    assert logits.grad.isfinite().all() and logits.grad.dtype == dtype
    rounding = {torch.float32: 3e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype]  # of the gradient's own type
    for n in range(rows):
        gradient = [of_rows[n] * value for value in eq_4(z[n], y[n], rates, weights)]
        assert logits.grad[n].tolist() == pytest.approx(gradient, rel=rounding, abs=2e-6)
        assert scores[n].tolist() == pytest.approx(eq_5(z[n], rates), rel=1e-5, abs=1e-24)
