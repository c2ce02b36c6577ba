"""The loss modules: arguments, forms of targets, rates and checkpoints."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.model import ExponentialMovingAverage

import mmoid
from mmoid.models.losses import concurrent_softmax_loss
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.statistics.concurrent_rates import save_rates
from tests.official_files import LABEL_NAMES, TREE, write_files

RATES = np.array([[0, 0.5, 0.2], [0.25, 0, 0], [0, 1, 0]], dtype=np.float32)


def loss(**kwargs):
    return mmoid.ConcurrentSoftmaxLoss(**{'num_classes': 3, 'concurrent_rates': RATES, **kwargs})


def batch(rows=6, classes=3, seed=0):
    torch.manual_seed(seed)
    return torch.randn(rows, classes + 1), torch.rand(rows, classes) < 0.4


def test_background_is_concurrent_with_nothing():
    module = loss()
    assert module.rates.shape == (4, 4)
    assert torch.equal(module.rates[:3, :3], torch.from_numpy(RATES))
    assert not module.rates[3].any() and not module.rates[:, 3].any()


def test_all_forms_of_targets_mean_the_same():
    logits, sets = batch()
    sets[0] = False
    full = torch.cat([sets, ~sets.any(1, keepdim=True)], 1)
    expected = loss()(logits, sets)
    for labels in (full, sets.float(), full.float(), sets.long()):
        assert torch.equal(loss()(logits, labels), expected)
    indices = torch.tensor([0, 3, 2, 1, 3, 0])
    assert torch.equal(loss()(logits, indices), loss()(logits, F.one_hot(indices, 4)))


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
@pytest.mark.parametrize('weighted', [False, True])
def test_reductions_weights_and_average_factor(reduction, weighted):
    logits, sets = batch()
    weight = torch.rand(6) if weighted else None
    rows = concurrent_softmax_loss(logits, loss().targets(sets), loss().rates) * (weight if weighted else 1)
    expected = {'none': rows, 'mean': rows.mean(), 'sum': rows.sum()}[reduction] * 2.5
    assert torch.allclose(loss(reduction=reduction, loss_weight=2.5)(logits, sets, weight), expected)
    assert torch.allclose(loss(loss_weight=2.5)(logits, sets, weight, reduction_override=reduction), expected)


def test_average_factor_divides_instead_of_the_number_of_rows():
    logits, sets = batch()
    rows = loss(reduction='none')(logits, sets)
    assert torch.allclose(loss()(logits, sets, avg_factor=7.0), rows.sum() / 7.0)


def test_nothing_and_only_background():
    empty = loss()(torch.zeros(0, 4, requires_grad=True), torch.zeros(0, dtype=torch.long), avg_factor=1.0)
    assert empty == 0
    assert loss()(torch.zeros(0, 4), torch.zeros(0, 3)) == 0  # the mean of nothing would be NaN
    logits = torch.randn(5, 4)
    background = torch.full((5,), 3)
    assert torch.allclose(loss()(logits, background), F.cross_entropy(logits, background))


def test_accuracy_counts_any_label_of_the_set():
    logits = torch.eye(4)
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]])
    assert loss().get_accuracy(logits, labels)['acc'].item() == 75.0
    assert loss().get_accuracy(logits[:0], labels[:0])['acc'].item() == 0.0


@pytest.mark.parametrize(('rate', 'expected'), [(1.0, 1.0), (0.0, 0.0), (0.5, 0.5)])
def test_hierarchy_rate_holds_both_ways_whatever_the_rates_say(rate, expected):
    ancestors = np.zeros((3, 3))
    ancestors[0, 2] = 1
    rates = loss(hierarchy=ancestors, hierarchy_rate=rate).rates
    assert rates[0, 2] == rates[2, 0] == expected
    assert rates[0, 1] == 0.5 and rates[2, 1] == 1


def test_scores_of_a_class_and_its_ancestor_do_not_suppress_each_other():
    ancestors = np.zeros((3, 3))
    ancestors[0, 2] = 1
    logits = torch.tensor([[5.0, 0.0, 5.0, 0.0]])
    scores = mmoid.ConcurrentSoftmaxLoss(3, hierarchy=ancestors).get_activation(logits)
    assert scores[0, 0] > 0.95 and scores[0, 2] > 0.95
    literal = mmoid.ConcurrentSoftmaxLoss(3, hierarchy=ancestors, hierarchy_rate=0.0).get_activation(logits)
    assert literal[0, 0] < 0.5


def test_rates_in_another_order_of_classes_are_brought_into_that_of_the_store(tmp_path):
    convert(tmp_path / 'store', **write_files(tmp_path / 'official'))
    rates = np.arange(25).reshape(5, 5) / 25
    turned = [4, 2, 0, 1, 3]
    save_rates(tmp_path / 'turned.npz', rates[np.ix_(turned, turned)], tuple(LABEL_NAMES[i] for i in turned))
    save_rates(tmp_path / 'same.npz', rates, tuple(LABEL_NAMES))
    modules = [
        mmoid.ConcurrentSoftmaxLoss(5, str(tmp_path / name), hierarchy=str(tmp_path / 'store'))
        for name in ('turned.npz', 'same.npz')
    ]
    assert torch.equal(modules[0].rates, modules[1].rates)
    assert modules[0].label_names == tuple(LABEL_NAMES)
    assert modules[0].rates[0, 2] == modules[0].rates[2, 0] == 1  # Apple and Fruit


def test_the_official_json_needs_an_order_and_takes_it_from_the_rates(tmp_path):
    (tmp_path / 'tree.json').write_text(json.dumps(TREE))
    with pytest.raises(AnnotationError, match=r'loss_cls\.hierarchy = .*tree\.json.*order'):
        mmoid.ConcurrentSoftmaxLoss(5, hierarchy=tmp_path / 'tree.json')
    save_rates(tmp_path / 'rates.npz', np.zeros((5, 5)), tuple(LABEL_NAMES))
    module = mmoid.ConcurrentSoftmaxLoss(5, str(tmp_path / 'rates.npz'), hierarchy=tmp_path / 'tree.json')
    assert module.rates.sum() == 4


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(num_classes=4), r'loss_cls\.concurrent_rates: has shape \(3, 3\), expected \(4, 4\)'),
        (dict(concurrent_rates=RATES * 2), r'loss_cls\.concurrent_rates: must be in \[0, 1\]'),
        (dict(concurrent_rates=[[0, 1], [1]]), r'loss_cls\.concurrent_rates: expects a \(C, C\) array of numbers'),
        (dict(hierarchy=np.zeros((2, 2))), r'loss_cls\.hierarchy: is for 2 classes, num_classes is 3'),
        (dict(hierarchy=np.zeros((3, 2))), r'loss_cls\.hierarchy: an ancestor matrix is square, got shape \(3, 2\)'),
        (dict(hierarchy_rate=1.5), r'loss_cls\.hierarchy_rate must be in \[0, 1\], got 1\.5'),
        (dict(reduction='avg'), r"loss_cls\.reduction must be one of none, mean, sum, got 'avg'"),
        (dict(num_classes=0), r'loss_cls\.num_classes must be at least 1, got 0'),
    ],
)
def test_bad_arguments_name_their_key(kwargs, message):
    with pytest.raises(ValueError, match=message):
        loss(**kwargs)


def test_rates_of_other_classes_are_refused(tmp_path):
    convert(tmp_path / 'store', **write_files(tmp_path / 'official'))
    save_rates(tmp_path / 'rates.npz', np.zeros((5, 5)), ('/m/pear', *LABEL_NAMES[1:]))
    with pytest.raises(AnnotationError, match=r"concurrent_rates = .*rates\.npz: has other classes .*'/m/apple'"):
        mmoid.ConcurrentSoftmaxLoss(5, str(tmp_path / 'rates.npz'), hierarchy=str(tmp_path / 'store'))


def test_wrong_shapes_of_a_batch_are_told():
    with pytest.raises(ValueError, match=r'cls_score has shape \(2, 3\), expected \(N, 3 classes \+ 1\)'):
        loss()(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r'labels have shape \(2, 5\), expected .* \(2, 3\) label sets'):
        loss()(torch.zeros(2, 4), torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r'bbox_head\.num_classes is 80, loss_cls\.num_classes is 3'):
        loss().get_cls_channels(80)
    with pytest.raises(ValueError, match=r'cls_score has 2 rows, labels have shape \(3, 3\)'):
        loss()(torch.zeros(2, 4), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r'weight has shape \(2, 1\), expected \(2,\)'):
        loss()(torch.zeros(2, 4), torch.zeros(2, 3), torch.ones(2, 1))  # would broadcast to (2, 2)
    for label in (-1, 4):
        with pytest.raises(ValueError, match=rf'labels must be in \[0, 3\], got {label}'):
            loss()(torch.zeros(2, 4), torch.tensor([0, label]))
    with pytest.raises(ValueError, match=r'labels of shape \(2,\) must be class indices, got torch\.float32'):
        loss()(torch.zeros(2, 4), torch.zeros(2))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'cannot be read as concurrent rates'),
        (b'PK\x03\x04 cut off', 'cannot be read as concurrent rates'),
        (dict(label_names=LABEL_NAMES), 'rates is not a file in the archive'),
        (dict(rates=np.zeros((5, 5)).astype(str).tolist(), label_names=LABEL_NAMES[:4]), r'shape \(5, 5\) for 4'),
        (dict(rates=[['much'] * 5] * 5, label_names=LABEL_NAMES), 'cannot be read as concurrent rates'),
        (dict(rates=np.full((5, 5), np.nan), label_names=LABEL_NAMES), r'must be in \[0, 1\], found nan'),
        (dict(rates=np.full((5, 5), 1.5), label_names=LABEL_NAMES), r'must be in \[0, 1\], found 1\.5 to 1\.5'),
        (dict(rates=np.zeros((5, 5)), label_names=LABEL_NAMES[:1] * 5), "holds '/m/apple' twice"),
    ],
)
def test_a_bad_file_of_rates_is_named(tmp_path, content, message):
    path = tmp_path / 'rates.npz'
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **{key: np.array(value) for key, value in content.items()})
    with pytest.raises(AnnotationError, match=rf'rates\.npz: .*{message}'):
        mmoid.ConcurrentSoftmaxLoss(5, str(path))


def test_the_rates_travel_in_the_checkpoint(tmp_path):
    trained = loss()
    elsewhere = mmoid.ConcurrentSoftmaxLoss(3, str(tmp_path / 'not_here.npz'))
    with pytest.raises(AnnotationError, match=r'loss_cls\.concurrent_rates = .*not_here\.npz: no such file'):
        elsewhere.get_activation(torch.zeros(1, 4))
    with pytest.raises(AnnotationError, match='no such file'):
        elsewhere.init_weights()  # what the Runner calls before training
    elsewhere.load_state_dict(trained.state_dict())
    logits, _ = batch()
    assert torch.equal(elsewhere.get_activation(logits), trained.get_activation(logits))


def test_an_averaged_model_has_the_rates_too():
    module = loss()
    averaged = ExponentialMovingAverage(module)
    logits, sets = batch()
    assert torch.equal(module(logits, sets), averaged.module(logits, sets))
    module.rates.fill_(0)  # the loss must not go on with what it has kept of the old ones
    averaged.update_parameters(module)
    plain = mmoid.ConcurrentSoftmaxLoss(3)
    assert torch.equal(averaged.module(logits, sets), plain(logits, sets))
    assert torch.equal(module(logits, sets), plain(logits, sets))


def test_softmax_takes_the_same_arguments_and_one_label():
    module = mmoid.SoftmaxLoss(3, concurrent_rates='any.npz', hierarchy='any', hierarchy_rate=0.5)
    logits, _ = batch()
    labels = torch.tensor([0, 3, 2, 1, 3, 0])
    assert torch.allclose(module(logits, labels), F.cross_entropy(logits, labels))
    assert torch.allclose(module.get_activation(logits), logits.softmax(1))
    with pytest.raises(ValueError, match='one label a row'):
        module(logits, torch.ones(6, 3))
