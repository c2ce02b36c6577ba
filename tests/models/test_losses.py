"""The loss modules: formulas in float64, arguments, forms of targets, rates and checkpoints."""

import io
import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from scipy.sparse import csr_array

import mmoid
from mmoid.models.losses import concurrent_softmax
from mmoid.models.losses.base import RatesLoss
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.sampling.soft_balance import effective_number_weights
from mmoid.openimages.statistics.concurrent_rates import save_rates
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.models.test_concurrent_softmax import DEVICES
from tests.official_files import LABEL_NAMES, TREE, write_files

LOSSES = ('SoftmaxLoss', 'LabelSetFocalLoss', 'LabelSetBCELoss', 'CoBCELoss', 'DistCELoss', 'ConcurrentSoftmaxLoss')
CLASSES = 5
RATES = np.array([[0, 0.5, 0.2], [0.25, 0, 0], [0, 1, 0]], dtype=np.float32)


def loss(**kwargs):
    return mmoid.ConcurrentSoftmaxLoss(**{'num_classes': 3, 'concurrent_rates': RATES, **kwargs})


def build(name, classes, rates=None, **kwargs):
    loss_type = getattr(mmoid, name)
    return loss_type(classes, **({'concurrent_rates': rates} if issubclass(loss_type, RatesLoss) else {}), **kwargs)


def batch():
    torch.manual_seed(0)
    return torch.randn(6, 4), torch.rand(6, 3) < 0.4


@pytest.fixture
def store(tmp_path):
    convert(tmp_path / 'store', **write_files(tmp_path / 'official'))
    return tmp_path / 'store'


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def dist_ce_loss(z, labels, rates, weight):
    return -sum(weight[i] * (z[i] - np.logaddexp.reduce(z)) for i in labels) / len(labels)


def sigmoid_loss(z, labels, rates, weight, alpha=None, concurrent=False):
    """Binary cross-entropy, or focal loss with γ = 2; a ``concurrent`` class of a label has no negative term."""
    loss = 0.0
    for j in range(CLASSES):
        sign = 1 if j in labels else -1
        if concurrent and sign < 0 and any(rates[i][j] > 0 for i in labels):
            continue
        term = -weight[j] * log_sigmoid(sign * z[j])
        if alpha is not None:
            term *= (alpha if sign > 0 else 1 - alpha) * math.exp(log_sigmoid(-sign * z[j])) ** 2
        loss += term
    return loss


FORMULAS = {  # that of ConcurrentSoftmaxLoss is in test_concurrent_softmax.py
    'SoftmaxLoss': dist_ce_loss,
    'LabelSetFocalLoss': partial(sigmoid_loss, alpha=0.25),
    'LabelSetBCELoss': sigmoid_loss,
    'CoBCELoss': partial(sigmoid_loss, concurrent=True),
    'DistCELoss': dist_ce_loss,
}


def random_case(name, seed):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 7))
    logits = torch.tensor(rng.normal(0, 3, (rows, CLASSES + 1)), dtype=torch.float32)
    sets = rng.random((rows, CLASSES)) < 0.3
    rates = np.where(rng.random((CLASSES, CLASSES)) < 0.5, 0, rng.random((CLASSES, CLASSES))).astype(np.float32)
    np.fill_diagonal(rates, 0)
    weight = rng.random(CLASSES).astype(np.float32) if seed % 2 else None
    labels = [np.flatnonzero(row).tolist() or [CLASSES] for row in sets]
    if name == 'SoftmaxLoss':
        labels = [row[:1] for row in labels]
        return logits, torch.tensor(labels).flatten(), labels, rates, weight
    return logits, torch.from_numpy(sets), labels, rates, weight


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize('name', FORMULAS)
def test_loss_and_gradient_match_the_formula(name, seed, device):
    logits, given, labels, rates, weight = random_case(name, seed)
    module = build(name, CLASSES, rates, class_weight=weight, reduction='none')
    logits.requires_grad_()
    losses = module.to(device)(logits.to(device), given.to(device))
    padded = np.pad(rates.astype(np.float64), (0, 1))
    weights = [*([1.0] * CLASSES if weight is None else weight.tolist()), 1.0]

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


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize('name', ['ConcurrentSoftmaxLoss', 'CoBCELoss', 'ConcurrentFocalLoss'])
def test_sparse_rates_are_the_same_as_dense_ones(name, seed, device, monkeypatch):
    rng = np.random.default_rng(seed)
    rates = rng.choice([0, 0, 0.5, 1], (CLASSES, CLASSES))
    ancestors = np.triu(rng.random((CLASSES, CLASSES)) < 0.3, 1)
    logits = torch.from_numpy(rng.normal(0, 20, (6, CLASSES + 1)).astype(np.float32)).to(device)
    sets = torch.from_numpy(rng.random((6, CLASSES)) < 0.4).to(device)
    found = []
    for dense_classes in (CLASSES + 1, 0):
        monkeypatch.setattr('mmoid.models.class_lists.DENSE_CLASSES', dense_classes)
        module = build(name, CLASSES, rates, hierarchy=ancestors, hierarchy_rate=0.75, reduction='none').to(device)
        inputs = logits.clone().requires_grad_()
        losses = module(inputs, sets)
        losses.sum().backward()
        found.append((module.class_buffer().to_dense(), losses, inputs.grad, module.get_activation(logits)))
    assert module.rates.dim() == 1
    for dense, sparse in zip(*found):
        assert torch.allclose(dense, sparse, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('name', LOSSES)
def test_half_precision_is_computed_in_float32(name, dtype, device):
    logits, given, _, rates, weight = random_case(name, 1)
    module = build(name, CLASSES, rates, class_weight=weight).to(device)
    halves, given = logits.to(device, dtype), given.to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        loss, scores = module(halves, given), module.get_activation(halves)
    assert loss.dtype == scores.dtype == torch.float32
    assert torch.allclose(loss, module(halves.float(), given), rtol=1e-6)
    assert torch.allclose(scores, module.get_activation(halves.float()), rtol=1e-6)


@pytest.mark.parametrize('name', LOSSES)
def test_every_loss_fits_the_head_and_takes_no_boxes(name):
    module = build(name, 3)
    assert module.get_cls_channels(3) == 4
    logits = torch.randn(6, 4)
    scores = module.get_activation(logits)
    assert scores.shape == (6, 4) and ((scores >= 0) & (scores <= 1)).all()
    assert 0 <= module.get_accuracy(logits, torch.tensor([0, 3, 2, 1, 3, 0]))['acc'].item() <= 100
    for avg_factor in (1.0, None):  # the mean of nothing would be NaN
        empty = module(torch.zeros(0, 4, requires_grad=True), torch.zeros(0, dtype=torch.long), avg_factor=avg_factor)
        assert empty == 0
        empty.backward()
    assert module.get_accuracy(logits[:0], torch.zeros(0, dtype=torch.long))['acc'].item() == 0


def test_scores_of_background_and_accuracy_of_label_sets():
    module = mmoid.LabelSetBCELoss(3)
    scores = module.get_activation(torch.tensor([[2.0, -1.0, 0.0, 99.0]]))
    assert scores[0, 3].item() == pytest.approx(1 - scores[0, 0].item()), 'a sigmoid loss has no background channel'
    logits = torch.tensor([[2.0, -1, 0, 9], [-3, -4, -5, -9]])
    assert module.get_accuracy(logits, torch.tensor([[1, 0, 0], [0, 0, 0]]))['acc'] == 100
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]])
    assert loss().get_accuracy(torch.eye(4), labels)['acc'].item() == 75.0


def test_rates_in_another_order_of_classes_are_sorted_into_that_of_the_store(tmp_path, store):
    rates = np.arange(25).reshape(5, 5) / 25
    turned = [4, 2, 0, 1, 3]
    save_rates(tmp_path / 'turned.npz', rates[np.ix_(turned, turned)], tuple(LABEL_NAMES[i] for i in turned))
    save_rates(tmp_path / 'same.npz', rates, tuple(LABEL_NAMES))
    modules = [mmoid.ConcurrentSoftmaxLoss(5, tmp_path / name, store) for name in ('turned.npz', 'same.npz')]
    assert torch.equal(modules[0].rates, modules[1].rates)
    assert modules[0].label_names == tuple(LABEL_NAMES)
    assert modules[0].rates[0, 2] == modules[0].rates[2, 0] == 1  # Apple and Fruit
    save_rates(tmp_path / 'rates.npz', np.zeros((5, 5)), ('/m/pear', *LABEL_NAMES[1:]))
    with pytest.raises(AnnotationError, match=r"loss_cls\.concurrent_rates: '/m/apple' is not a class of .*rates\.npz"):
        mmoid.ConcurrentSoftmaxLoss(5, tmp_path / 'rates.npz', store)


def test_the_official_json_takes_its_order_of_classes_from_the_rates(tmp_path):
    (tmp_path / 'tree.json').write_text(json.dumps(TREE))
    with pytest.raises(ValueError, match=r'loss_cls\.hierarchy = .*tree\.json.*order'):
        mmoid.ConcurrentSoftmaxLoss(5, hierarchy=tmp_path / 'tree.json')
    sizes = dict(num_classes=5, in_channels=4, fc_out_channels=8, roi_feat_size=1)
    files = dict(hierarchy=str(tmp_path / 'tree.json'), concurrent_rates=str(tmp_path / 'rates.npz'))
    for name in ('SoftmaxLoss', 'ConcurrentSoftmaxLoss'):
        save_rates(tmp_path / 'rates.npz', np.zeros((5, 5)), tuple(LABEL_NAMES))
        trained = mmoid.LabelSetBBoxHead(**sizes, loss_cls=dict(type=f'mmoid.{name}', **files))
        (tmp_path / 'rates.npz').unlink()  # a test needs no data files
        head = mmoid.LabelSetBBoxHead(**sizes, loss_cls=dict(type=f'mmoid.{name}', **files))
        head.load_state_dict(trained.state_dict())
        assert torch.equal(head.ancestors, trained.ancestors) and head.ancestors.sum() == 2
    assert head.loss_cls.rates.sum() == 4


def test_class_weights_come_from_the_boxes_of_a_store(store):
    assert AnnotationStore(store).class_box_counts.tolist() == [2, 1, 1, 1, 0]
    source = dict(store=str(store), beta=0.9)
    one_label = mmoid.SoftmaxLoss(5, class_weight=source)
    assert one_label.class_weight.tolist() == pytest.approx([*effective_number_weights([2, 1, 1, 1, 0], 0.9), 1])
    part = mmoid.SoftmaxLoss(2, class_weight=source, classes=['Orange', '/m/apple'])
    assert part.class_weight.tolist() == pytest.approx([*effective_number_weights([1, 2], 0.9), 1])
    assert part.label_names == ('/m/orange', '/m/apple')
    assert 'class_weight' not in one_label.state_dict()


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(num_classes=4), r'loss_cls\.concurrent_rates: has shape \(3, 3\), expected \(4, 4\)'),
        (dict(concurrent_rates=RATES * 2), r'loss_cls\.concurrent_rates: must be in \[0, 1\]'),
        (dict(hierarchy=np.zeros((2, 2))), r'loss_cls\.hierarchy: is for 2 classes, num_classes is 3'),
        (dict(hierarchy=np.zeros((3, 2))), r'loss_cls\.hierarchy: expects a square .*, got shape \(3, 2\)'),
        (dict(hierarchy_rate=1.5), r'loss_cls\.hierarchy_rate must be in \[0, 1\], got 1\.5'),
        (dict(reduction='avg'), r"loss_cls\.reduction must be one of none, mean, sum, got 'avg'"),
        (dict(num_classes=0), r'loss_cls\.num_classes must be at least 1, got 0'),
        (dict(class_weight=[1.0, 2.0]), r'loss_cls\.class_weight: expects 3 numbers >= 0, got'),
        (dict(class_weight=[1.0, 2.0, -1.0]), r'loss_cls\.class_weight: expects 3 numbers >= 0, got'),
        (dict(class_weight=dict(beta=0.9)), r"loss_cls\.class_weight: expects the keys .*, got \['beta'\]"),
        (dict(rates_from='here'), r"loss_cls\.rates_from must be 'checkpoint' or 'config', got 'here'"),
        (dict(classes=['/m/1']), r'loss_cls\.classes has 1 classes, num_classes is 3'),
    ],
)
def test_bad_arguments_name_their_key(kwargs, message):
    with pytest.raises(ValueError, match=message):
        loss(**kwargs)


@pytest.mark.parametrize(
    ('shape', 'labels', 'message'),
    [
        ((2, 3), torch.tensor([0, 3]), r'cls_score has shape \(2, 3\), expected \(2, 4\) for 2 labels and 3 classes'),
        ((2, 4), torch.zeros(2, 5), r'labels have shape \(2, 5\), expected .* \(2, 3\) label sets'),
        ((2, 4), torch.zeros(3, 3), r'cls_score has shape \(2, 4\), expected \(3, 4\) for 3 labels'),
        ((2, 4), torch.zeros(2), r'labels of shape \(2,\) must be class indices, got torch\.float32'),
        ((2, 4), torch.full((2, 3), 0.5), 'label sets must hold only 0 and 1'),
        ((2, 4), torch.full((2, 3), 2), 'label sets must hold only 0 and 1'),
    ],
)
def test_bad_batches_are_refused(shape, labels, message):
    with pytest.raises(ValueError, match=message):
        loss()(torch.zeros(shape), labels)


PAIR = (torch.tensor([0, 3]), torch.ones(2))


@pytest.mark.parametrize(
    ('use', 'message'),
    [
        (lambda: loss().get_cls_channels(80), r'bbox_head\.num_classes is 80, loss_cls\.num_classes is 3'),
        (lambda: loss()(torch.zeros(2, 4), torch.zeros(2, 3), torch.ones(2, 1)), r'weight has shape \(2, 1\), expe'),
        (lambda: mmoid.SoftmaxLoss(3)(torch.zeros(6, 4), torch.ones(6, 3)), r'takes \(N,\) class indices, got label'),
        (lambda: mmoid.ConcurrentQualityFocalLoss(3)(torch.zeros(2, 4), PAIR[0]), 'takes labels with qualities, and'),
        (lambda: mmoid.ConcurrentFocalLoss(3)(torch.zeros(2, 4), PAIR), 'takes labels, and this head gives pairs of'),
    ],
)
def test_a_head_that_does_not_fit_is_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use()


def test_training_needs_the_data_files_and_testing_only_the_checkpoint(tmp_path):
    weighted = mmoid.SoftmaxLoss(5, class_weight=dict(store='nowhere', beta=0.9))
    assert weighted.get_activation(torch.zeros(1, 6)).sum() == pytest.approx(1)
    with pytest.raises(AnnotationError, match=r'loss_cls\.class_weight\.store = nowhere: no such store'):
        weighted.init_weights()
    trained = loss()
    elsewhere = mmoid.ConcurrentSoftmaxLoss(3, str(tmp_path / 'not_here.npz'))
    logits, sets = batch()
    for use in (
        lambda: elsewhere(logits, sets),
        lambda: elsewhere.get_activation(logits),
        elsewhere.init_weights,  # which the Runner calls before training
    ):
        with pytest.raises(AnnotationError, match=r'loss_cls\.concurrent_rates = .*not_here\.npz: no such file'):
            use()
    assert list(trained.state_dict()) == ['rates']
    elsewhere.load_state_dict(trained.state_dict())
    assert torch.equal(elsewhere.get_activation(logits), trained.get_activation(logits))
    assert torch.equal(elsewhere(logits, sets), trained(logits, sets))


def test_a_checkpoint_of_thirteen_thousand_classes_holds_only_the_pairs(tmp_path):
    classes, path = 13_204, tmp_path / 'rates.npz'
    names = tuple(f'/m/{i}' for i in range(classes))
    first = np.arange(classes)
    save_rates(path, csr_array((np.full(classes, 0.5), (first, first[::-1])), (classes, classes)), names)
    tree = [{'LabelName': a, 'Subcategory': [{'LabelName': b}]} for a, b in zip(names[::2], names[1::2])]
    (tmp_path / 'tree.json').write_text(json.dumps({'LabelName': 'root', 'Subcategory': tree}))
    heads = []
    for folder in (tmp_path, tmp_path / 'elsewhere'):
        options = dict(concurrent_rates=str(folder / 'rates.npz'), hierarchy=str(folder / 'tree.json'))
        loss_cls = dict(type='mmoid.ConcurrentSoftmaxLoss', **options)
        size = dict(in_channels=1, roi_feat_size=1, fc_out_channels=2, reg_class_agnostic=True)
        heads.append(mmoid.LabelSetBBoxHead(num_classes=classes, loss_cls=loss_cls, **size))
    checkpoint = io.BytesIO()
    torch.save(heads[0].state_dict(), checkpoint)
    assert checkpoint.tell() < 2**21
    checkpoint.seek(0)
    heads[1].load_state_dict(torch.load(checkpoint))
    assert heads[1].ancestors.sum() == len(tree)


@pytest.mark.parametrize(
    ('rate', 'trains', 'source', 'expected', 'message'),
    [
        (0.25, False, 'checkpoint', 0.5, "using the checkpoint's"),
        (0.0, False, 'checkpoint', 0.5, "using the checkpoint's"),
        (None, False, 'checkpoint', 0.5, None),  # the config gives none
        (0.25, False, 'config', 0.25, "using the config's"),
        (0.25, True, 'checkpoint', 0.25, "using the config's"),  # load_from
        (None, True, 'checkpoint', 0.0, "using the config's"),
    ],
)
def test_training_takes_the_rates_of_the_config_and_a_test_those_of_the_checkpoint(
    rate, trains, source, expected, message, monkeypatch
):
    messages = []
    monkeypatch.setattr('mmoid.models.class_lists.print_log', lambda text, *_: messages.append(text))
    module = loss(concurrent_rates=None if rate is None else np.full((3, 3), rate), rates_from=source)
    if trains:
        module.init_weights()  # as the Runner does
    module.load_state_dict(loss().state_dict())
    assert module.rates[0, 1] == expected
    logits = batch()[0]
    assert torch.equal(module.get_activation(logits), concurrent_softmax(logits, module.rates))
    assert len(messages) == (message is not None) and all(message in text for text in messages)


def test_the_checkpoint_of_a_stock_loss_lacks_no_rates():
    module = loss()
    module.load_state_dict(mmoid.SoftmaxLoss(3).state_dict())  # strict
    assert torch.equal(module.rates, loss().rates)


def test_a_checkpoint_knows_the_classes_of_its_rates(tmp_path):
    modules = []
    for names in (('/m/a', '/m/b'), ('/m/b', '/m/a'), ('/m/a', '/m/b', '/m/c')):
        path = tmp_path / f'{len(modules)}.npz'
        save_rates(path, np.eye(len(names)), names)
        modules.append(mmoid.ConcurrentSoftmaxLoss(len(names), path))
    modules[0].load_state_dict(modules[0].state_dict())
    for other in modules[1:]:
        with pytest.raises(ValueError, match=r'class \d is /m/\w there and \S+ here; convert it with'):
            modules[0].load_state_dict(other.state_dict())
    modules[0].init_weights()
    modules[0].load_state_dict(modules[2].state_dict())  # fine-tuning on fewer classes
    with pytest.raises(ValueError, match='class 0 is /m/b there and /m/a here'):
        modules[0].load_state_dict(modules[1].state_dict())


def test_an_averaged_model_starts_a_training_with_the_rates_of_the_config(monkeypatch):
    monkeypatch.setattr('mmoid.models.class_lists.DENSE_CLASSES', 0)
    module = loss()
    averaged = ExponentialMovingAverage(module)  # EMAHook makes it before init_weights
    module.init_weights()
    fewer = loss(concurrent_rates=RATES * (RATES < 0.3)).state_dict()
    for each in (averaged.module, module):
        each.load_state_dict(dict(fewer))
    averaged.update_parameters(module)
    assert (module.class_buffer().to_dense()[:3, :3].numpy() == RATES).all()
    assert torch.equal(averaged.module.class_buffer().to_dense(), module.class_buffer().to_dense())


@pytest.mark.parametrize('beta', [0.0, 0.9, 0.9999])
def test_effective_number_weights_are_those_of_cui_et_al(beta):
    counts = np.array([14, 1, 100, 0, 1_400_000])
    expected = [(1 - beta) / (1 - beta**n) if n else 0 for n in counts.tolist()]
    mean = np.average(expected, weights=counts)
    assert effective_number_weights(counts, beta).tolist() == pytest.approx([value / mean for value in expected])
    with pytest.raises(ValueError, match=r'beta must be in \[0, 1\), got 1'):
        effective_number_weights(counts, 1.0)
