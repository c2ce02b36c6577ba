"""ConcurrentSoftmaxLoss with all of its options at once, against Eq. 3-5 in float64."""

import numpy as np
import pytest
import torch

import mmoid
from tests.models.concurrent_oracle import eq_3, eq_4, eq_5


def random_module(rng, classes):
    """A loss with random options, and what they mean: rates (C+1, C+1), class weights, factor."""
    rates = rng.random((classes, classes)).astype(np.float32)
    rates[rng.random(rates.shape) < 0.4] = 0
    rates[rng.random(rates.shape) < 0.2] = 1
    ancestors = np.triu(rng.random((classes, classes)) < 0.3, 1) if rng.random() < 0.5 else None
    hierarchy_rate = float(rng.choice([0.0, 0.25, 1.0]))
    class_weight = (rng.random(classes) * 2).astype(np.float32) if rng.random() < 0.5 else None
    loss_weight = float(rng.choice([1.0, 2.5]))
    module = mmoid.ConcurrentSoftmaxLoss(
        classes, rates, hierarchy=ancestors, hierarchy_rate=hierarchy_rate, class_weight=class_weight,
        loss_weight=loss_weight,
    )  # fmt: skip
    expected = np.zeros((classes + 1, classes + 1))
    expected[:-1, :-1] = rates
    for i in range(classes):
        for j in range(classes):
            if ancestors is not None and (ancestors[i, j] or ancestors[j, i]):
                expected[i, j] = hierarchy_rate
    weights = [1.0] * (classes + 1) if class_weight is None else [*class_weight.tolist(), 1.0]
    return module, expected.tolist(), weights, loss_weight


def random_labels(rng, rows, classes):
    """Label sets in one of the forms that the loss takes, and as lists of 0 and 1 with background last."""
    sets = rng.random((rows, classes)) < rng.choice([0.0, 0.3, 1.0])
    form = rng.choice(['sets', 'float', 'with background', 'indices'])
    if form == 'indices':
        sets &= np.cumsum(sets, axis=1) == 1
    full = np.concatenate([sets, ~sets.any(axis=1, keepdims=True)], axis=1)
    labels = {'sets': sets, 'float': sets.astype(np.float32), 'with background': full, 'indices': full.argmax(axis=1)}
    return torch.from_numpy(labels[form]), full.astype(int).tolist()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('seed', range(40))
def test_every_option_means_what_the_formulas_say(seed, dtype):
    rng = np.random.default_rng(seed)
    classes, rows = int(rng.integers(1, 8)), int(rng.integers(0, 7))  # no rows too
    module, rates, weights, loss_weight = random_module(rng, classes)
    logits = rng.normal(rng.choice([0, 0, 5e3]), rng.choice([1, 20, 1e4]), (rows, classes + 1)).clip(-1e4, 1e4)
    logits = torch.from_numpy(logits.astype(np.float32)).to(dtype).requires_grad_()
    labels, y = random_labels(rng, rows, classes)
    weight = torch.from_numpy(rng.choice([0, 1, 0.5], rows).astype(np.float32)) if seed % 2 else None
    reduction = str(rng.choice(['mean', 'sum', 'none']))
    avg_factor = 7.0 if reduction == 'mean' and rng.random() < 0.5 else None
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=seed % 3 == 0):
        loss = module(logits, labels, weight, avg_factor=avg_factor, reduction_override=reduction)
        scores = module.get_activation(logits.detach())
    loss.sum().backward()

    z = logits.detach().double().tolist()
    factor = loss_weight / {'none': 1, 'sum': 1, 'mean': avg_factor or max(rows, 1)}[reduction]
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
