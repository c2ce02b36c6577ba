"""The official metric on an evaluation set: image by image as predictions come, or on a whole set of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric.annotations import Annotations
from mmoid.openimages.metric.average_precision import (
    Matches,
    average_precision,
    count_positives,
    match_detections,
    mean_average_precision,
)
from mmoid.openimages.metric.class_groups import class_columns, class_groups, score_groups
from mmoid.openimages.metric.ground_truth import GroundTruth
from mmoid.openimages.metric.multi_label_recall import SeveralLabelObjects
from mmoid.openimages.metric.protocol import Protocol
from mmoid.openimages.metric.result import Evaluation
from mmoid.openimages.predictions.csv_files import PredictionSet, PredictionTable
from mmoid.openimages.ragged import runs_of_rows
from mmoid.utils.progress import Progress, no_progress

DETECTIONS_AT_ONCE = 1 << 20
"""Bounds the memory that expanding and matching takes, to some 300 MB."""


@dataclass(frozen=True, eq=False)
class Evaluator:
    """What detections are held against, by the rules of a protocol.

    Attributes:
        annotations: Of all images.
        protocol: The rules.
        train_images: (C,) int training images of each class, by which head, middle and tail are told; None: they are
            not told.

    Raises:
        AnnotationError: No hierarchy where the protocol needs one.
    """

    annotations: Annotations
    protocol: Protocol = field(default_factory=Protocol)
    train_images: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.protocol.is_challenge:
            self.annotations.require_hierarchy('the challenge protocol')
        if self.protocol.expand_detections:
            self.annotations.require_hierarchy('expanding detections')

    @cached_property
    def ground_truth(self) -> GroundTruth:
        """Prepared as the protocol says."""
        return self.annotations.ground_truth(self.protocol)

    @cached_property
    def objects(self) -> SeveralLabelObjects:
        """Those with several labels."""
        return SeveralLabelObjects.of(self.annotations)

    def match(self, image: np.ndarray, label: np.ndarray, score: np.ndarray, box: np.ndarray) -> Matches:
        """Matches all detections of some images; arguments as for :func:`mmoid.openimages.metric.matching.match_detections`.

        Ancestors are added first if the protocol says so.
        """
        if self.protocol.expand_detections:
            rows, label = self.annotations.require_hierarchy('expanding detections').expand_up(label)
            image, score, box = image[rows], score[rows], box[rows]
        rules = (self.protocol.iou_threshold, self.protocol.group_of_weight)
        return match_detections(self.ground_truth, image, label, score, box, *rules)

    def evaluate(
        self,
        matches: Matches,
        detections_of_image: np.ndarray,
        images: np.ndarray | None = None,
        left_out: Mapping[str, int] | None = None,
    ) -> Evaluation:
        """The figures of all matches together.

        Args:
            matches: Each image once.
            detections_of_image: (I,) int detections given for each image that is evaluated, before expansion.
            images: (I,) int indices of these images, each once; None: all.
            left_out: Detections that were not matched, by why, for the record.
        """
        annotations, protocol, num_classes = self.annotations, self.protocol, len(self.annotations.label_names)
        left_out = {why: count for why, count in (left_out or {}).items() if count}
        positives = count_positives(self.ground_truth, protocol.group_of_weight, images)
        ap = average_precision(matches, positives)
        return Evaluation(
            protocol=protocol,
            description=self.describe(len(detections_of_image), int((positives > 0).sum())),
            label_names=annotations.label_names,
            class_names=annotations.class_names,
            mean_ap=mean_average_precision(ap),
            ap=ap,
            positives=positives,
            scored=np.bincount(matches.label, minlength=num_classes),
            true_positives=np.bincount(matches.label, weights=matches.value, minlength=num_classes),
            num_images=len(detections_of_image),
            num_images_without_detections=int((detections_of_image == 0).sum()),
            num_detections=int(detections_of_image.sum()) + sum(left_out.values()),
            left_out=left_out,
            groups=score_groups(class_groups(annotations.hierarchy, self.train_images), ap),
            objects=self.objects.recall(self.ground_truth, matches.found, images),
            class_columns=class_columns(annotations.hierarchy, self.train_images),
        )

    def describe(self, num_images: int, num_classes: int) -> str:
        """The protocol in words, of so many images and classes with ground truth."""
        annotations = self.annotations
        has_labels = len(annotations.label_class) > 0
        return self.protocol.describe(has_labels, num_images, num_classes, len(annotations.label_names))


def evaluate_predictions(
    annotations: Annotations,
    predictions: PredictionSet,
    protocol: Protocol | None = None,
    other_classes: Literal['error', 'drop'] = 'error',
    progress: Progress = no_progress,
    train_images: np.ndarray | None = None,
) -> Evaluation:
    """The official metric over all images that are annotated, whether there are predictions on them or not.

    Args:
        annotations: Of all images.
        predictions: Matched to them by ImageID and MID. Those on other images are left out, as the official evaluator
            does, and counted.
        protocol: The rules; None: those of the challenge.
        other_classes: What to do with detections of classes that are not annotated: raise, or leave them out.
        progress: Told how many detections are matched.
        train_images: As of :class:`Evaluator`.

    Raises:
        AnnotationError: A class that is not known, an image that is there twice, no hierarchy where one is needed.
    """
    evaluator = Evaluator(annotations, protocol or Protocol(), train_images)
    image_of = _positions(predictions, annotations.image_ids)
    label_of = _class_positions(predictions, annotations.label_names, other_classes)
    counts = np.diff(predictions.detection_stop, prepend=0)
    other = predictions.dropped if isinstance(predictions, PredictionTable) else 0
    given = np.zeros(len(annotations.image_ids), dtype=np.int64)
    parts = []
    for first, last in runs_of_rows(counts, DETECTIONS_AT_ONCE):
        stop = int(predictions.detection_stop[last - 1])
        rows = slice(stop - int(counts[first:last].sum()), stop)
        image = np.repeat(image_of[first:last], counts[first:last])
        label, score, box = label_of[predictions.label[rows]], predictions.score[rows], predictions.box[rows]
        kept = np.flatnonzero((image >= 0) & (label >= 0))
        given += np.bincount(image[kept], minlength=len(given))
        other += int(((image >= 0) & (label < 0)).sum())
        parts.append(evaluator.match(image[kept], label[kept], score[kept], box[kept]))
        progress('matching detections', stop, len(predictions.label))
    matches = Matches.concatenate(parts)
    del parts
    elsewhere = int(counts[image_of < 0].sum())
    left_out = {'on images that are not annotated': elsewhere, 'of other classes': other}
    return evaluator.evaluate(matches, given, left_out=left_out)


def _positions(predictions: PredictionSet, image_ids: Sequence[str]) -> np.ndarray:
    """(N,) index of each image of the predictions among ``image_ids``, -1: not there."""
    found = pc.index_in(pa.array(predictions.image_ids(), pa.string()), pa.array(image_ids, pa.string()))
    image: np.ndarray = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    times = np.bincount(image[image >= 0])
    if (times > 1).any():
        name = image_ids[int(times.argmax())]
        raise AnnotationError(f'{predictions.path}: holds image {name!r} {times.max()} times; each must be there once')
    return image


def _class_positions(predictions: PredictionSet, label_names: Sequence[str], other_classes: str) -> np.ndarray:
    """(K,) index of each class of the predictions among ``label_names``, -1: not there."""
    index = {name: i for i, name in enumerate(label_names)}
    label = np.array([index.get(name, -1) for name in predictions.label_names], dtype=np.int64)
    unknown = np.flatnonzero(label < 0)
    if other_classes == 'error' and len(unknown):
        used = unknown[np.isin(unknown, predictions.label)]
        if len(used):
            name = predictions.label_names[used[0]]
            raise AnnotationError(
                f'{predictions.path}: holds detections of class {name!r}, which is not among the classes annotated; '
                "give the annotations that belong to it, or leave these out with other_classes='drop' "
                '(--other-classes drop)'
            )
    return label
