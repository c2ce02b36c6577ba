"""Trains only the classification head, on the cached RoIs of a world's stock detector, and tests it in several ways.

Boxes and features are the same for all methods; a difference is one of the loss, the label sets, the sampling or the
reading. The head and its loss are those of the package.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmdet.models.layers import multiclass_nms
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from reproduction.methods import Method
from reproduction.worlds import DIMENSIONS, World
from torch import Tensor, nn

from mmoid.models.label_sets import VerifiedClasses
from mmoid.models.losses import concurrent_softmax
from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.class_groups import train_image_counts
from mmoid.openimages.metric.evaluator import Evaluator
from mmoid.openimages.predictions.ancestors import with_ancestors
from mmoid.openimages.predictions.prediction_store import Detections
from mmoid.openimages.sampling.soft_balance import class_probabilities
from mmoid.openimages.statistics.concurrent_rates import load_rates
from mmoid.openimages.store.annotation_store import AnnotationStore

BATCH, SAMPLED, SAMPLED_POSITIVES = 8, 64, 16  # images per step, RoIs per image, as in the quickstart
SCORE_THRESHOLD, MAX_PER_IMAGE, NMS_IOU = 0.01, 300, 0.5
SUMS = 'softmax, parents get the sum of their descendants'
SOFTMAX_READINGS = ('softmax', SUMS, 'Eq. 5, annotated', 'Eq. 5, pairs')
SIGMOID = ('LabelSetFocalLoss', 'LabelSetBCELoss', 'CoBCELoss')


def readings_of_loss(loss_type: str) -> tuple[str, ...]:
    """Softmax and Eq. 5 can test any head that is not of sigmoid scores."""
    return ('sigmoid',) if loss_type in SIGMOID else SOFTMAX_READINGS


class Readings:
    """Figures of logits and boxes on the validation images of a world.

    Args:
        world: Its data.
        image_ids: Of the images, in the order in which :meth:`read` gets them.
    """

    def __init__(self, world: World, image_ids: list[str]) -> None:
        self.world = world
        validation, train = AnnotationStore(world.store('validation')), AnnotationStore(world.store('train'))
        self.hierarchy = train.hierarchy
        self.ancestor = torch.from_numpy(self.hierarchy.ancestor_matrix)
        counts = train_image_counts(str(train.path), validation.label_names, True)
        annotations = annotations_of_store(validation, validation.label_names)
        self.evaluator = Evaluator(annotations, train_images=counts)
        index = {image_id: i for i, image_id in enumerate(annotations.image_ids)}
        self.image = np.array([index[image_id] for image_id in image_ids])

    def activation(self, reading: str, logits: Tensor, pairs: Path) -> Tensor:
        """(N, C+1) logits to (N, C+1) scores; ``pairs`` has the rates of ``'Eq. 5, pairs'``."""
        if reading == 'sigmoid':
            return logits.sigmoid()
        if reading == 'softmax':
            return logits.softmax(dim=1)
        if reading == SUMS:
            scores = logits.softmax(dim=1)
            scores[:, :-1] += scores[:, :-1] @ self.ancestor.float()
            return scores
        found, _ = load_rates(pairs if reading == 'Eq. 5, pairs' else self.world.annotated_rates())
        rates = torch.from_numpy(found.toarray())
        rates[self.ancestor | self.ancestor.T] = 1
        return concurrent_softmax(logits, nn.functional.pad(rates.fill_diagonal_(0), (0, 1, 0, 1)))

    def read(
        self, readings: tuple[str, ...], logits: list[Tensor], boxes: list[Tensor], pairs: Path
    ) -> dict[str, dict[str, dict]]:
        """Figures as predicted, with ancestors added, and with NMS per class over own and added boxes.

        Args:
            readings: Of :func:`readings_of_loss`.
            logits: (R, C+1) of each image.
            boxes: (R, 4) of each image, as fractions of its size.
            pairs: Rates of the pairs of classes that annotators mix up.
        """
        results = {}
        for reading in readings:
            found = self.detections(self.activation(reading, torch.cat(logits), pairs), boxes)
            results[reading] = {
                'as predicted': self.figures(found),
                'ancestors': self.figures(with_ancestors(self.hierarchy, found, None)),
                'ancestors, NMS': self.figures(with_ancestors(self.hierarchy, found, NMS_IOU), with_ap=True),
            }
        return results

    def detections(self, scores: Tensor, boxes: list[Tensor]) -> Detections:
        """(D,) image, (D,) class, (D,) score, (D, 4) box: above the threshold, after NMS per class."""
        nms, parts = dict(type='nms', iou_threshold=NMS_IOU), []
        for index, own, regions in zip(self.image, scores.split([len(part) for part in boxes]), boxes):
            found, label = multiclass_nms(regions, own, SCORE_THRESHOLD, nms, MAX_PER_IMAGE)
            found = found.numpy().astype(np.float64)
            # Sums of scores pass 1 by rounding.
            parts.append((np.full(len(label), index), label.numpy(), found[:, 4].clip(max=1), found[:, :4]))
        return Detections(*map(np.concatenate, zip(*parts)))

    def figures(self, detections: Detections, with_ap: bool = False) -> dict:
        counts = np.bincount(detections.image, minlength=len(self.evaluator.annotations.image_ids))
        matches = self.evaluator.match(detections)
        evaluation = self.evaluator.evaluate(matches, counts[self.image], self.image)
        figures: dict = {name: round(float(value), 5) for name, value in evaluation.scalars().items()}
        if with_ap:  # one AP by class is enough for Fig. 5
            figures['AP'] = [round(float(value), 4) for value in evaluation.ap]
        return figures


class Heads:
    """The cached RoIs of a world with their targets."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.__dict__ |= torch.load(world.rois(), weights_only=True)
        self.readings = Readings(world, [image['image_id'] for image in self.validation])
        self.num_classes = self.readings.hierarchy.num_classes

    def build(self, method: Method, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        store = str(self.world.store('train'))
        rates = self.world.pair_rates() if method.rates == 'pairs' else self.world.annotated_rates()
        loss = dict(method.loss, concurrent_rates=str(rates), hierarchy=store, hierarchy_rate=method.hierarchy_rate)
        if method.beta:
            loss['class_weight'] = dict(store=store, beta=method.beta)
        settings = dict(in_channels=DIMENSIONS, roi_feat_size=1, fc_out_channels=256, reg_class_agnostic=True)
        settings |= dict(num_classes=self.num_classes, loss_cls=loss)
        head = MODELS.build(dict(type='mmoid.LabelSetBBoxHead', **settings))
        head.init_weights()
        first = torch.empty(256, len(self.components))
        nn.init.xavier_uniform_(first)  # what the full features would get
        head.shared_fcs[0].weight.data = first @ self.components
        return head

    def draws(self, balance: float | None, rng: np.random.Generator) -> np.ndarray:
        """(N,) image indices of one epoch."""
        count = len(self.train[0])
        if balance is None:
            return rng.permutation(count)
        sizes = np.array([len(images) for images in self.class_images])
        labels = rng.choice(len(sizes), count, p=class_probabilities(sizes, balance))
        return np.array([rng.choice(self.class_images[label].numpy()) for label in labels])

    def steps(self, method: Method, rng: np.random.Generator) -> Iterator[tuple[float, np.ndarray, bool]]:
        """Learning rate, image indices, and whether an epoch ends, for every step."""
        for number, (epochs, balance) in enumerate(method.stages):
            per_epoch = len(self.train[0]) // BATCH
            for epoch in range(epochs):
                factor = 0.1 ** sum(epoch >= round(epochs * part) for part in (4 / 7, 6 / 7))
                images = self.draws(balance, rng)[: per_epoch * BATCH].reshape(-1, BATCH)
                for step, batch in enumerate(images):
                    warm = min(1.0, 0.01 + step / 100) if number == epoch == 0 else 1.0
                    yield method.lr * factor * warm, batch, step + 1 == per_epoch

    def fit(self, method: Method, seed: int, each_epoch: bool = False) -> tuple[nn.Module, list[float]]:
        """Trains a head; also its mAP after every epoch, tested with softmax, if asked."""
        rng = np.random.default_rng(seed)
        head = self.build(method, seed)
        layers = [*head.shared_fcs.parameters(), *head.fc_cls.parameters()]
        optimizer = torch.optim.SGD(layers, method.lr, momentum=0.9, weight_decay=1e-4)
        store = str(self.world.store('train'))
        verified = VerifiedClasses(method.unverified, self.num_classes // 4, self.num_classes, store)
        curve = []
        for lr, images, epoch_ends in self.steps(method, rng):
            optimizer.param_groups[0]['lr'] = lr
            parts = [self.sample(i, method, rng) for i in images]
            features, label, sets = (torch.cat(part) for part in zip(*parts))
            logits = self.logits(head, features)
            targets = sets if head.loss_cls.uses_label_sets else label
            found = [InstanceData(metainfo=dict(verified_classes=self.train[0][i]['verified'])) for i in images]
            judged = verified.judged(found, label.device)
            if judged is not None:  # (N, C) label sets, with -1 for classes that are no negatives
                if not head.loss_cls.uses_label_sets:
                    sets = nn.functional.one_hot(label, self.num_classes + 1)[:, :-1].bool()
                judged = judged.repeat_interleave(torch.tensor([len(part[1]) for part in parts]), dim=0)
                targets = sets.to(torch.int8).masked_fill(~(judged | sets), -1)
            loss = head.loss_cls(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(layers, 10.0)
            optimizer.step()
            if epoch_ends and each_epoch:
                curve.append(self.read(head, 'softmax')['softmax']['ancestors, NMS']['mAP'])
        return head, curve

    def sample(self, index: int, method: Method, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(R, D) features, (R,) labels with C = background, (R, C) label sets of random RoIs of an image."""
        image = self.train[rng.integers(2)][index]
        count = len(image['label'])
        positive = rng.permutation(count)[:SAMPLED_POSITIVES]
        background = count + rng.permutation(len(image['features']) - count)[: SAMPLED - len(positive)]
        label = torch.full((len(positive) + len(background),), self.num_classes)
        sets = torch.zeros(len(label), self.num_classes, dtype=torch.bool)
        label[: len(positive)] = image['label'][positive]
        chosen = image['sets'][positive]
        if method.ancestors:
            chosen = chosen | (chosen.float() @ self.readings.ancestor.float() > 0)
        sets[: len(positive)] = chosen
        return image['features'][np.concatenate([positive, background])], label, sets

    @torch.no_grad()
    def read(self, head: nn.Module, *readings: str) -> dict[str, dict[str, dict]]:
        """Figures of the head; see :meth:`Readings.read`."""
        logits = [self.logits(head, image['features']) for image in self.validation]
        boxes = [image['boxes'] for image in self.validation]
        return self.readings.read(readings, logits, boxes, self.world.pair_rates())

    @staticmethod
    def logits(head: nn.Module, features: Tensor) -> Tensor:
        return head(features.float()[:, :, None, None])[0]
