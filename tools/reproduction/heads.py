"""Trains only the classification head, on the cached RoIs of a world's stock detector, and reads its detections.

Boxes and features are the same for all methods; a difference is one of the loss, the label sets, the sampling or the
reading. The head and its loss are those of the package.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from mmcv.ops import batched_nms
from mmdet.registry import MODELS
from reproduction.methods import Method
from reproduction.worlds import DIMENSIONS, World
from torch import Tensor, nn

from mmoid.models.losses import concurrent_softmax
from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.class_groups import train_image_counts
from mmoid.openimages.metric.evaluator import Evaluator
from mmoid.openimages.predictions.ancestors import add_ancestors
from mmoid.openimages.sampling.soft_balance import class_probabilities
from mmoid.openimages.statistics.concurrent_rates import load_rates
from mmoid.openimages.store.annotation_store import AnnotationStore

BATCH, SAMPLED, SAMPLED_POSITIVES = 8, 64, 16  # images per step, RoIs per image, as in the quickstart
SCORE_THRESHOLD, MAX_PER_IMAGE, NMS_IOU = 0.01, 300, 0.5


class Heads:
    """The cached RoIs of a world with their targets."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.__dict__ |= torch.load(world.rois(), weights_only=True)
        self.store = AnnotationStore(world.store('train'))
        self.num_classes = self.store.num_classes
        self.ancestor = torch.from_numpy(self.store.hierarchy.ancestor_matrix)

    @cached_property
    def evaluator(self) -> Evaluator:
        validation, train = AnnotationStore(self.world.store('validation')), self.world.store('train')
        counts = train_image_counts(str(train), validation.label_names, True)
        return Evaluator(annotations_of_store(validation, validation.label_names), train_images=counts)

    @cached_property
    def validation_index(self) -> np.ndarray:
        index = {image_id: i for i, image_id in enumerate(self.evaluator.annotations.image_ids)}
        return np.array([index[image['image_id']] for image in self.validation])

    def rates(self, kind: str, hierarchy_rate: float = 1.0) -> Tensor:
        """(C+1, C+1) r_ij; ``kind`` is ``annotated`` or ``pairs``."""
        file = self.world.pair_rates() if kind == 'pairs' else self.world.annotated_rates()
        rates = torch.from_numpy(load_rates(file)[0])
        rates[self.ancestor | self.ancestor.T] = hierarchy_rate
        return nn.functional.pad(rates.fill_diagonal_(0), (0, 1, 0, 1))

    def build(self, method: Method, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        loss = dict(method.loss, hierarchy=str(self.world.store('train')), hierarchy_rate=method.hierarchy_rate)
        rates = self.world.pair_rates() if method.rates == 'pairs' else self.world.annotated_rates()
        loss['concurrent_rates'] = str(rates)
        if method.beta:
            loss['class_weight'] = dict(store=str(self.world.store('train')), beta=method.beta)
        head = MODELS.build(
            dict(
                type='mmoid.LabelSetBBoxHead',
                num_classes=self.num_classes,
                in_channels=DIMENSIONS,
                roi_feat_size=1,
                fc_out_channels=256,
                reg_class_agnostic=True,
                loss_cls=loss,
            )
        )
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
        """Trains a head; also its mAP after every epoch, as predicted by its own activation, if asked."""
        rng = np.random.default_rng(seed)
        head = self.build(method, seed)
        layers = [*head.shared_fcs.parameters(), *head.fc_cls.parameters()]
        optimizer = torch.optim.SGD(layers, method.lr, momentum=0.9, weight_decay=1e-4)
        curve = []
        for lr, images, epoch_ends in self.steps(method, rng):
            optimizer.param_groups[0]['lr'] = lr
            features, label, sets = (torch.cat(part) for part in zip(*(self.sample(i, method, rng) for i in images)))
            logits = self.logits(head, features)
            loss = head.loss_cls(logits, sets if head.loss_cls.uses_label_sets else label)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(layers, 10.0)
            optimizer.step()
            if epoch_ends and each_epoch:
                curve.append(self.read(head, 'own', 'annotated')['ancestors, NMS']['mAP'])
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
            chosen = chosen | (chosen.float() @ self.ancestor.float() > 0)
        sets[: len(positive)] = chosen
        return image['features'][np.concatenate([positive, background])], label, sets

    @staticmethod
    def logits(head: nn.Module, features: Tensor) -> Tensor:
        return head(features.float()[:, :, None, None])[0]

    @torch.no_grad()
    def read(self, head: nn.Module, activation: str, rates: str) -> dict[str, dict]:
        """Figures of the detections as predicted, with ancestors added, and with NMS over own and added boxes.

        Args:
            head: Trained.
            activation: ``own`` (the loss's), ``softmax`` or ``concurrent`` (Eq. 5).
            rates: ``annotated`` or ``pairs``, for ``concurrent``.
        """
        image, label, score, box = [], [], [], []
        matrix = self.rates(rates)
        for index, regions in zip(self.validation_index, self.validation):
            logits = self.logits(head, regions['features'])
            if activation == 'own':
                scores = head.loss_cls.get_activation(logits)
            else:
                scores = logits.softmax(dim=1) if activation == 'softmax' else concurrent_softmax(logits, matrix)
            rows, labels = (scores[:, :-1] > SCORE_THRESHOLD).nonzero(as_tuple=True)
            found = batched_nms(
                regions['boxes'][rows], scores[rows, labels], labels, dict(type='nms', iou_threshold=NMS_IOU)
            )
            kept = found[1][:MAX_PER_IMAGE]
            image.append(np.full(len(kept), index))
            label.append(labels[kept].numpy())
            score.append(found[0][:MAX_PER_IMAGE, 4].numpy().astype(np.float64))
            box.append(regions['boxes'][rows[kept]].numpy().astype(np.float64))
        detections = tuple(np.concatenate(part) for part in (image, label, score, box))
        return {
            'as predicted': self.figures(detections),
            'ancestors': self.figures(self.expanded(detections, None)),
            'ancestors, NMS': self.figures(self.expanded(detections, NMS_IOU)),
        }

    def expanded(self, detections: tuple[np.ndarray, ...], nms_iou: float | None) -> tuple[np.ndarray, ...]:
        image, _, score, box = detections
        rows, label = add_ancestors(self.store.hierarchy, *detections, nms_iou)
        return image[rows], label, score[rows], box[rows]

    def figures(self, detections: tuple[np.ndarray, ...]) -> dict:
        counts = np.bincount(detections[0], minlength=len(self.evaluator.annotations.image_ids))
        matches = self.evaluator.match(*detections)
        evaluation = self.evaluator.evaluate(matches, counts[self.validation_index], self.validation_index)
        scalars = {name: round(float(value), 5) for name, value in evaluation.scalars().items()}
        return {**scalars, 'AP': [round(float(value), 4) for value in evaluation.ap]}
