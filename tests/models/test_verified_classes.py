"""Training on the classes that somebody verified: in the losses, in the box head, and from the data set to the loss."""

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.structures import InstanceData

import mmoid
from mmoid.models.label_sets import VerifiedClasses
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.evaluator import Evaluator
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.models.concurrent_oracle import eq_3
from tests.models.test_detectors import CLASSES, LOSSES, batch, rcnn

ROWS = 40


def faster_rcnn(loss='ConcurrentSoftmaxLoss', **options):
    model = rcnn('faster-rcnn', loss, **options)
    model.train_cfg.rcnn.sampler.ancestors = False
    return MODELS.build(model)


def random_rows(most_labels):
    """(N, C+1) float64 logits and (N, C) int8 label sets with -1 for what is not judged; some rows are background."""
    rng = np.random.default_rng(0)
    labels = np.zeros((ROWS, CLASSES), dtype=np.int8)
    for row in labels:
        row[rng.permutation(CLASSES)[: rng.integers(0, most_labels + 1)]] = 1
        row[(rng.random(CLASSES) < 0.4) & (row == 0)] = -1
    return torch.from_numpy(rng.normal(0, 3, (ROWS, CLASSES + 1))), torch.from_numpy(labels)


def test_eq_3_with_unverified_classes_is_the_plain_sum():
    logits, labels = random_rows(3)
    rates = np.random.default_rng(1).random((CLASSES, CLASSES))
    np.fill_diagonal(rates, 0)
    loss = mmoid.ConcurrentSoftmaxLoss(CLASSES, concurrent_rates=rates)
    found = loss(logits, labels, reduction_override='none')
    rates = loss.rates.double().tolist()
    for z, row, value in zip(logits.tolist(), labels.tolist(), found):
        y = [int(label == 1) for label in row] + [int(1 not in row)]
        # 1 - r_ij = 0 leaves class j out, as v_j = 0 does.
        excused = [[1.0 if j < CLASSES and row[j] == -1 else r for j, r in enumerate(rs)] for rs in rates]
        assert float(value) == pytest.approx(eq_3(z, y, excused), rel=1e-6)


@pytest.mark.parametrize('loss', ['SoftmaxLoss', 'DistCELoss'])
def test_softmax_is_over_the_judged_classes_and_background(loss):
    logits, labels = random_rows(1 if loss == 'SoftmaxLoss' else 3)
    found = getattr(mmoid, loss)(CLASSES)(logits, labels, reduction_override='none')
    for z, row, value in zip(logits, labels, found):
        counted = torch.cat([row != -1, torch.tensor([True])])
        sets = torch.cat([row == 1, (row != 1).all().reshape(1)])[counted]
        expected = -(z[counted].log_softmax(0)[sets]).mean()
        assert float(value) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize('loss', ['LabelSetBCELoss', 'LabelSetFocalLoss', 'CoBCELoss', 'ConcurrentFocalLoss'])
def test_sigmoid_losses_have_no_negative_terms_of_unverified_classes(loss):
    logits, labels = random_rows(3)
    module = getattr(mmoid, loss)(CLASSES)
    found = module(logits, labels, reduction_override='none')
    for z, row, value in zip(logits, labels, found):
        terms = module.class_losses(z[None, :-1].float(), (row == 1).float()[None])
        assert float(value) == pytest.approx(float(terms[0, row != -1].sum()), rel=1e-5)


def verified_batch():
    """Girl, woman and chair in the first image, which verifies them; the second is empty and verifies chair."""
    images, samples = batch()
    for sample, classes in zip(samples, ([0, 1, 3], [3])):
        sample.gt_instances.set_metainfo(dict(verified_classes=np.array(classes)))
    return images, samples


@pytest.mark.parametrize('loss', LOSSES)
def test_nobody_pushes_an_unverified_class_down_in_any_loss(loss):
    torch.manual_seed(1)
    model = faster_rcnn(loss, unverified='ignore')
    model.init_weights()
    losses = model.loss(*verified_batch())
    model.parse_losses(losses)[0].backward()
    gradient = model.roi_head.bbox_head.fc_cls.weight.grad.abs().sum(dim=1)
    assert gradient[2] == 0 and (gradient[[0, 3]] > 0).all()
    assert losses['loss_bbox'] > 0


def test_without_unverified_classes_a_step_is_the_usual_one():
    results = {}
    for unverified in ('negative', 'ignore'):
        torch.manual_seed(1)
        model = faster_rcnn('SoftmaxLoss', unverified=unverified)
        model.init_weights()
        images, samples = batch()
        for sample in samples:
            sample.gt_instances.set_metainfo(dict(verified_classes=np.arange(CLASSES)))
        torch.manual_seed(2)
        results[unverified] = {k: float(v) for k, v in model.parse_losses(model.loss(images, samples))[1].items()}
    assert results['negative'] == pytest.approx(results['ignore'], rel=1e-6)


def test_images_without_verified_classes_are_an_error():
    model = faster_rcnn(unverified='ignore')
    with pytest.raises(AnnotationError, match=r"unverified='ignore': an image has no verified classes; they come from"):
        model.loss(*batch())


def test_sampled_classes_follow_the_root_of_their_frequency(tiny_data):
    store = AnnotationStore(tiny_data / 'train')
    torch.manual_seed(0)
    verified = VerifiedClasses('sample', 1, store.num_classes, str(store.path))
    images = [InstanceData(metainfo=dict(verified_classes=np.array([], dtype=int)))] * 2
    drawn = np.zeros(store.num_classes)
    for _ in range(4000):
        judged = verified.judged(images, torch.device('cpu'))
        assert torch.equal(judged[0], judged[1])
        drawn += judged[0].numpy()
    expected = np.sqrt(np.maximum(store.class_image_counts(), 1))
    expected *= 4000 / expected.sum()
    assert drawn.sum() == 4000 and ((drawn - expected) ** 2 / expected).sum() < 2.5 * store.num_classes


def test_the_classes_of_training_are_those_of_the_metric(tiny_data):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='RandomResize', scale=(64, 64), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(40, 40), allow_negative_crop=True),
        dict(type='PackDetInputs'),
    ]
    config = dict(type='OpenImagesHierarchyDataset', ann_file=str(tiny_data / 'validation'), pipeline=pipeline)
    dataset = DATASETS.build(config)
    keys = Evaluator(annotations_of_store(dataset.store)).ground_truth.verified
    expected = [keys[keys // dataset.store.num_classes == i] % dataset.store.num_classes for i in range(len(dataset))]
    for item, classes in zip(dataset, expected, strict=True):
        assert item['data_samples'].gt_instances.verified_classes.tolist() == classes.tolist()
    assert 0 < sum(map(len, expected)) < len(dataset) * dataset.store.num_classes
    mixed = DATASETS.build(
        dict(config, pipeline=[*pipeline[:-1], dict(type='CachedMosaic', img_scale=(64, 64)), pipeline[-1]])
    )
    assert 'verified_classes' not in mixed[0]['data_samples'].gt_instances
