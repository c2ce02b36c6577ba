"""The losses where they train: on a GPU, with and without autocast. Skipped where there is none."""

import numpy as np
import pytest
import torch

import mmoid
from mmoid.models.losses import concurrent_softmax, concurrent_softmax_loss
from tests.models.concurrent_oracle import eq_3, eq_4, eq_5
from tests.models.test_losses import LOSSES, build

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
CLASSES = 30


def case(seed, scale=3.0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, CLASSES + 1, generator=generator) * scale + offset
    sets = torch.rand(40, CLASSES, generator=generator) < 0.08
    rates = torch.rand(CLASSES, CLASSES, generator=generator)
    rates[torch.rand(CLASSES, CLASSES, generator=generator) < 0.6] = 0
    rates[torch.rand(CLASSES, CLASSES, generator=generator) < 0.1] = 1
    return logits, sets, rates.fill_diagonal_(0).numpy()


@pytest.mark.parametrize(('scale', 'offset'), [(1.0, 0.0), (300.0, 0.0), (1e4, 0.0), (3.0, 1e4)])
def test_concurrent_softmax_is_that_of_the_paper(scale, offset):
    logits, sets, rates = case(0, scale, offset)
    module = mmoid.ConcurrentSoftmaxLoss(CLASSES, rates)
    targets, rates = module.targets(sets), module.rates
    on_gpu = logits.cuda().requires_grad_()
    losses = concurrent_softmax_loss(on_gpu, targets.cuda(), rates.cuda())
    losses.sum().backward()
    z, y, r = logits.double().tolist(), targets.long().tolist(), rates.double().tolist()
    expected = torch.tensor([eq_3(z[n], y[n], r) for n in range(len(z))], dtype=torch.float64)
    assert torch.allclose(losses.double().cpu(), expected, rtol=1e-6, atol=3e-7)
    gradient = torch.tensor([eq_4(z[n], y[n], r) for n in range(len(z))], dtype=torch.float64)
    assert torch.allclose(on_gpu.grad.double().cpu(), gradient, rtol=5e-6, atol=3e-7)
    activation = torch.tensor([eq_5(z[n], r) for n in range(len(z))], dtype=torch.float64)
    scores = concurrent_softmax(on_gpu.detach(), rates.cuda())
    assert torch.allclose(scores.double().cpu(), activation, rtol=1e-5, atol=1e-24)


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('seed', range(3))
def test_every_loss_is_that_of_the_cpu(name, seed):
    logits, sets, rates = case(seed)
    labels = sets.long().argmax(dim=1) if name == 'SoftmaxLoss' else sets
    weight, class_weight = torch.rand(40), np.random.default_rng(seed).random(CLASSES)
    results = {}
    for device in ('cpu', 'cuda'):
        module = build(name, CLASSES, rates, class_weight=class_weight).to(device)
        leaf = logits.clone().to(device).requires_grad_()
        loss = module(leaf, labels.to(device), weight.to(device), avg_factor=7.0)
        loss.backward()
        results[device] = loss, leaf.grad, module.get_activation(leaf.detach())
        accuracy = module.get_accuracy(leaf, labels.to(device))['acc']
        assert accuracy.device.type == device
    for ours, theirs in zip(results['cuda'], results['cpu']):
        assert torch.allclose(ours.cpu(), theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', LOSSES)
def test_autocast_computes_in_float32(name, dtype):
    logits, sets, rates = case(1, scale=30.0)
    labels = sets.long().argmax(dim=1) if name == 'SoftmaxLoss' else sets
    module = build(name, CLASSES, rates).cuda()
    halves = logits.cuda().to(dtype).requires_grad_()
    with torch.autocast('cuda', dtype=dtype):
        loss, scores = module(halves, labels.cuda()), module.get_activation(halves.detach())
    loss.backward()
    expected = module(halves.detach().float(), labels.cuda())
    assert loss.dtype == torch.float32 and torch.allclose(loss, expected, rtol=1e-6)
    assert halves.grad.isfinite().all()
    assert torch.allclose(scores.float(), module.get_activation(halves.detach().float()).float(), rtol=1e-6)
