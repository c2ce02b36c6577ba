"""The ways of testing one trained head: activations of its logits, and what is done about ancestors."""

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from mmcv.ops import batched_nms
from reproduction.worlds import World
from torch import Tensor, nn

from mmoid.models.losses import concurrent_softmax
from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.class_groups import train_image_counts
from mmoid.openimages.metric.evaluator import Evaluator
from mmoid.openimages.predictions.ancestors import with_ancestors
from mmoid.openimages.predictions.prediction_store import Detections
from mmoid.openimages.statistics.concurrent_rates import load_rates
from mmoid.openimages.store.annotation_store import AnnotationStore

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
        self.hierarchy = AnnotationStore(world.store('train')).hierarchy
        self.ancestor = torch.from_numpy(self.hierarchy.ancestor_matrix)
        index = {image_id: i for i, image_id in enumerate(self.evaluator.annotations.image_ids)}
        self.image = np.array([index[image_id] for image_id in image_ids])

    @cached_property
    def evaluator(self) -> Evaluator:
        validation, train = AnnotationStore(self.world.store('validation')), self.world.store('train')
        counts = train_image_counts(str(train), validation.label_names, True)
        return Evaluator(annotations_of_store(validation, validation.label_names), train_images=counts)

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
            detections = self.detections(self.activation(reading, torch.cat(logits), pairs), boxes)
            results[reading] = {
                'as predicted': self.figures(detections),
                'ancestors': self.figures(with_ancestors(self.hierarchy, detections, None)),
                'ancestors, NMS': self.figures(with_ancestors(self.hierarchy, detections, NMS_IOU)),
            }
        return results

    def detections(self, scores: Tensor, boxes: list[Tensor]) -> Detections:
        """(D,) image, (D,) class, (D,) score, (D, 4) box: above the threshold, after NMS per class, as mmdet does."""
        image, label, score, box = [], [], [], []
        for index, own, regions in zip(self.image, scores.split([len(part) for part in boxes]), boxes):
            rows, labels = (own[:, :-1] > SCORE_THRESHOLD).nonzero(as_tuple=True)
            if not len(rows):  # batched_nms fails
                continue
            nms = dict(type='nms', iou_threshold=NMS_IOU)
            found, kept = batched_nms(regions[rows], own[rows, labels], labels, nms)
            kept = kept[:MAX_PER_IMAGE]
            image.append(np.full(len(kept), index))
            label.append(labels[kept].numpy())
            score.append(found[:MAX_PER_IMAGE, 4].numpy().astype(np.float64).clip(max=1))  # sums pass 1 by rounding
            box.append(regions[rows[kept]].numpy().astype(np.float64))
        return Detections(*map(np.concatenate, (image, label, score, box)))

    def figures(self, detections: Detections) -> dict:
        counts = np.bincount(detections[0], minlength=len(self.evaluator.annotations.image_ids))
        matches = self.evaluator.match(*detections)
        evaluation = self.evaluator.evaluate(matches, counts[self.image], self.image)
        scalars = {name: round(float(value), 5) for name, value in evaluation.scalars().items()}
        return {**scalars, 'AP': [round(float(value), 4) for value in evaluation.ap]}
