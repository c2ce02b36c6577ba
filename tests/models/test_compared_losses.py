"""The losses that Table 1 and Table 3 compare, each against its formula written out in float64."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mmoid
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.sampling.soft_balance import effective_number_weights
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.official_files import LABEL_NAMES, write_files

LOSSES = ('SoftmaxLoss', 'LabelSetFocalLoss', 'LabelSetBCELoss', 'CoBCELoss', 'DistCELoss', 'ConcurrentSoftmaxLoss')
CLASSES = 5


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def log_softmax(z):
    largest = max(z)
    log_sum = largest + math.log(sum(math.exp(value - largest) for value in z))
    return [value - log_sum for value in z]


def softmax_loss(z, labels, rates, weight):
    (label,) = labels
    return -weight[label] * log_softmax(z)[label]


def dist_ce_loss(z, labels, rates, weight):
    return -sum(weight[i] * log_softmax(z)[i] for i in labels) / len(labels)


def bce_loss(z, labels, rates, weight, excused=lambda j, labels, rates: False):
    loss = 0.0
    for j in range(CLASSES):
        if j in labels:
            loss -= weight[j] * log_sigmoid(z[j])
        elif not excused(j, labels, rates):
            loss -= weight[j] * log_sigmoid(-z[j])
    return loss


def co_bce_loss(z, labels, rates, weight):
    return bce_loss(z, labels, rates, weight, lambda j, labels, rates: any(rates[i][j] > 0 for i in labels))


def focal_loss(z, labels, rates, weight, alpha=0.25, gamma=2.0):
    loss = 0.0
    for j in range(CLASSES):
        p = math.exp(log_sigmoid(z[j]))
        if j in labels:
            loss -= weight[j] * alpha * (1 - p) ** gamma * log_sigmoid(z[j])
        else:
            loss -= weight[j] * (1 - alpha) * p**gamma * log_sigmoid(-z[j])
    return loss


def concurrent_loss(z, labels, rates, weight):
    loss = 0.0
    for i in labels:
        others = [j for j in range(len(z)) if j != i and j not in labels]
        denominator = math.exp(z[i]) + sum((1 - rates[i][j]) * math.exp(z[j]) for j in others)
        loss -= weight[i] * math.log(math.exp(z[i]) / denominator)
    return loss


FORMULAS = dict(zip(LOSSES, (softmax_loss, focal_loss, bce_loss, co_bce_loss, dist_ce_loss, concurrent_loss)))


def random_case(name, seed):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 7))
    logits = torch.tensor(rng.normal(0, 3, (rows, CLASSES + 1)), dtype=torch.float32)
    sets = rng.random((rows, CLASSES)) < 0.3
    if name == 'SoftmaxLoss':
        sets &= np.cumsum(sets, axis=1) == 1
    rates = np.where(rng.random((CLASSES, CLASSES)) < 0.5, 0, rng.random((CLASSES, CLASSES))).astype(np.float32)
    np.fill_diagonal(rates, 0)
    weight = rng.random(CLASSES).astype(np.float32) if seed % 2 else None
    return logits, sets, rates, weight


@pytest.mark.parametrize('seed', range(12))
@pytest.mark.parametrize('name', LOSSES)
def test_loss_and_gradient_are_those_of_the_formula(name, seed):
    logits, sets, rates, weight = random_case(name, seed)
    module = getattr(mmoid, name)(CLASSES, concurrent_rates=rates, class_weight=weight, reduction='none')
    logits.requires_grad_()
    losses = module(logits, torch.from_numpy(sets))
    padded = np.pad(rates.astype(np.float64), (0, 1))
    weights = [*([1.0] * CLASSES if weight is None else weight.tolist()), 1.0]
    labels = [np.flatnonzero(row).tolist() or [CLASSES] for row in sets]

    def formula(z):
        return [FORMULAS[name](row, labels[n], padded, weights) for n, row in enumerate(z)]

    z = logits.detach().double().numpy()
    assert losses.tolist() == pytest.approx(formula(z.tolist()), rel=3e-6, abs=1e-6)
    losses.sum().backward()
    step = 1e-5
    for n in range(len(z)):
        for k in range(CLASSES + 1):
            high, low = z.copy(), z.copy()
            high[n, k] += step
            low[n, k] -= step
            difference = (sum(formula(high.tolist())) - sum(formula(low.tolist()))) / (2 * step)
            assert logits.grad[n, k].item() == pytest.approx(difference, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize('name', LOSSES)
def test_all_take_the_same_arguments_and_head_outputs(name):
    kwargs = dict(concurrent_rates=None, hierarchy=None, hierarchy_rate=0.5, classes=None, class_weight=None,
                  loss_weight=2.0, reduction='sum')  # fmt: skip
    module = getattr(mmoid, name)(3, **kwargs)
    assert module.get_cls_channels(3) == 4
    logits = torch.randn(6, 4)
    labels = torch.tensor([0, 3, 2, 1, 3, 0])
    once = getattr(mmoid, name)(3)(logits, labels, weight=torch.ones(6), avg_factor=6.0)
    assert torch.allclose(module(logits, labels) / 12, once)
    scores = module.get_activation(logits)
    assert scores.shape == (6, 4) and ((scores >= 0) & (scores <= 1)).all()
    assert 0 <= module.get_accuracy(logits, labels)['acc'].item() <= 100
    nothing = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, dtype=torch.long)
    empty = getattr(mmoid, name)(3)(*nothing, avg_factor=1.0)
    assert empty == 0
    empty.backward()
    assert (inspect.getdoc(type(module)) or '').strip()


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, dtype):
    logits, sets, rates, weight = random_case(name, 1)
    module = getattr(mmoid, name)(CLASSES, concurrent_rates=rates, class_weight=weight)
    halves = logits.to(dtype)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = module(halves, torch.from_numpy(sets))
        scores = module.get_activation(halves)
    assert loss.dtype == scores.dtype == torch.float32
    assert torch.allclose(loss, module(halves.float(), torch.from_numpy(sets)), rtol=1e-6)
    assert torch.allclose(scores, module.get_activation(halves.float()), rtol=1e-6)


def test_one_label_each_is_what_mmdet_computes():
    from mmdet.models.losses import CrossEntropyLoss, FocalLoss

    torch.manual_seed(0)
    logits, labels = torch.randn(20, 4), torch.randint(0, 4, (20,))
    assert torch.allclose(mmoid.SoftmaxLoss(3)(logits, labels), CrossEntropyLoss()(logits, labels))
    assert torch.allclose(mmoid.DistCELoss(3)(logits, labels), CrossEntropyLoss()(logits, labels))
    focal = FocalLoss(use_sigmoid=True)(logits[:, :3], F.one_hot(labels, 4)[:, :3], avg_factor=20)
    assert torch.allclose(mmoid.LabelSetFocalLoss(3)(logits, labels), focal)
    binary = CrossEntropyLoss(use_sigmoid=True)(logits[:, :3], F.one_hot(labels, 4)[:, :3].float(), avg_factor=20)
    assert torch.allclose(mmoid.LabelSetBCELoss(3)(logits, labels), binary)


def test_the_co_occurrence_loss_excuses_ancestors_and_descendants():
    ancestors = np.zeros((3, 3))
    ancestors[0, 2] = 1  # Apple is a Fruit
    logits = torch.zeros(2, 4)
    labels = torch.tensor([0, 2])
    excused = mmoid.CoBCELoss(3, hierarchy=ancestors, reduction='none')(logits, labels)
    assert excused.tolist() == pytest.approx([2 * math.log(2)] * 2)
    literal = mmoid.CoBCELoss(3, hierarchy=ancestors, hierarchy_rate=0.0, reduction='none')(logits, labels)
    assert literal.tolist() == pytest.approx([3 * math.log(2)] * 2)


def test_sigmoid_losses_leave_the_background_channel_alone():
    logits = torch.randn(4, 4, requires_grad=True)
    mmoid.LabelSetBCELoss(3)(logits, torch.tensor([0, 1, 3, 3])).backward()
    assert (logits.grad[:, 3] == 0).all() and (logits.grad[:, :3] != 0).all()
    scores = mmoid.LabelSetBCELoss(3).get_activation(torch.tensor([[2.0, -1.0, 0.0, 99.0]]))
    assert scores[0, 3].item() == pytest.approx(1 - scores[0, 0].item())
    labels = torch.tensor([[1, 0, 0], [0, 0, 0]])
    assert (
        mmoid.LabelSetBCELoss(3).get_accuracy(torch.tensor([[2.0, -1, 0, 9], [-3, -4, -5, -9]]), labels)['acc'] == 100
    )


@pytest.mark.parametrize('beta', [0.0, 0.9, 0.999, 0.9999])
def test_effective_number_weights_are_those_of_cui_et_al(beta):
    counts = np.array([14, 1, 100, 0, 1_400_000])
    weights = effective_number_weights(counts, beta)
    expected = [(1 - beta) / (1 - beta**n) if n else 0 for n in counts.tolist()]
    mean = sum(expected) / 4
    assert weights.tolist() == pytest.approx([value / mean for value in expected], rel=1e-9)
    with pytest.raises(ValueError, match=r'beta must be in \[0, 1\), got 1'):
        effective_number_weights(counts, 1.0)


def test_class_weights_come_from_the_boxes_of_a_store(tmp_path):
    convert(tmp_path / 'store', **write_files(tmp_path / 'official'))
    store = AnnotationStore(tmp_path / 'store')
    assert store.class_box_counts.tolist() == [2, 1, 1, 1, 0]
    source = dict(store=str(tmp_path / 'store'), beta=0.9)
    one_label = mmoid.SoftmaxLoss(5, class_weight=source)
    assert one_label.class_weight.tolist() == pytest.approx([*effective_number_weights([2, 1, 1, 1, 0], 0.9), 1])
    # Label sets train a class on the boxes of its descendants too: Fruit on those of Apple and Orange.
    sets = mmoid.DistCELoss(5, class_weight=source)
    assert sets.class_weight.tolist() == pytest.approx([*effective_number_weights([2, 1, 4, 1, 0], 0.9), 1])
    part = mmoid.SoftmaxLoss(2, class_weight=source, hierarchy=str(tmp_path / 'store'), classes=['Orange', '/m/apple'])
    assert part.class_weight.tolist() == pytest.approx(
        [*effective_number_weights([1, 2, 1, 1, 0], 0.9)[:2], 1], rel=0.2
    )
    assert part.label_names == ('/m/orange', '/m/apple')
    assert 'class_weight' not in one_label.state_dict()


@pytest.mark.parametrize(
    ('class_weight', 'message'),
    [
        ([1.0, 2.0], r'loss_cls\.class_weight: is for 2 classes, num_classes is 5'),
        ([1.0, 2.0, -1.0, 0.0, 0.0], r'loss_cls\.class_weight: must be >= 0, got -1'),
        (3.0, r'loss_cls\.class_weight: expects 5 numbers, got 3\.0'),
        (dict(store='.', beta=1.0), r'loss_cls\.class_weight\.beta \(β\) must be in \[0, 1\), got 1\.0'),
        (dict(beta=0.9), r"loss_cls\.class_weight: expects the keys store and beta, got \['beta'\]"),
    ],
)
def test_wrong_class_weights_are_told(class_weight, message):
    with pytest.raises(AnnotationError, match=message):
        mmoid.SoftmaxLoss(5, class_weight=class_weight)


def test_a_missing_store_of_weights_matters_to_training_only():
    module = mmoid.SoftmaxLoss(5, class_weight=dict(store='nowhere', beta=0.9))
    assert module.get_activation(torch.zeros(1, 6)).sum() == pytest.approx(1)
    with pytest.raises(AnnotationError, match=r'loss_cls\.class_weight\.store = nowhere: no such store'):
        module.init_weights()


def test_a_part_of_the_classes_keeps_ancestry_and_rates(tmp_path):
    from mmoid.openimages.statistics.concurrent_rates import save_rates

    convert(tmp_path / 'store', **write_files(tmp_path / 'official'))
    rates = np.arange(25).reshape(5, 5) / 25
    save_rates(tmp_path / 'rates.npz', rates, tuple(LABEL_NAMES))
    kwargs = dict(concurrent_rates=str(tmp_path / 'rates.npz'), hierarchy=str(tmp_path / 'store'))
    module = mmoid.ConcurrentSoftmaxLoss(3, **kwargs, classes=['Fruit', 'Bench (/m/bench2)', '/m/apple'])
    assert module.label_names == ('/m/fruit', '/m/bench2', '/m/apple')
    assert module.rates[0, 2] == module.rates[2, 0] == 1  # Fruit and Apple
    assert module.rates[1, 2].item() == pytest.approx(rates[4, 0])
    assert module.rates[0, 1].item() == pytest.approx(rates[2, 4])
    with pytest.raises(AnnotationError, match=r"loss_cls\.classes: 'Pear' is no class of"):
        mmoid.ConcurrentSoftmaxLoss(1, **kwargs, classes=['Pear'])
    with pytest.raises(AnnotationError, match=r"loss_cls\.classes: 'Pear' is no MID; a name needs a store"):
        mmoid.ConcurrentSoftmaxLoss(1, classes=['Pear'])
    with pytest.raises(AnnotationError, match=r'is for 5 classes, num_classes is 3; name the classes .* classes = '):
        mmoid.ConcurrentSoftmaxLoss(3, hierarchy=str(tmp_path / 'store'))
    with pytest.raises(ValueError, match=r'loss_cls\.classes has 1 classes, num_classes is 3'):
        mmoid.ConcurrentSoftmaxLoss(3, **kwargs, classes=['Fruit'])
