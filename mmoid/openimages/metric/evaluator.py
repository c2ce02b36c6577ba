"""The official metric on an evaluation set: image by image as predictions come, or on a whole set of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from mmoid.openimages.metric.annotations import Annotations
from mmoid.openimages.metric.average_precision import average_precision, count_positives
from mmoid.openimages.metric.class_groups import class_columns, class_groups
from mmoid.openimages.metric.matching import GroundTruth, Matches, match_detections
from mmoid.openimages.metric.result import Evaluation, annotated_objects, multi_label_recall
from mmoid.openimages.predictions.ancestors import with_ancestors
from mmoid.openimages.predictions.prediction_store import Detections, Predictions, align_predictions
from mmoid.openimages.ragged import runs_of_rows
from mmoid.openimages.store.summary import Summary
from mmoid.utils.progress import Progress, no_progress

PROTOCOLS = ('challenge', 'v2')

DETECTIONS_AT_ONCE = 1 << 20
"""Bounds the memory of adding ancestors and matching to some 300 MB."""


@dataclass(frozen=True)
class Protocol:
    """The rules of an evaluation. Each of them moves the mAP by several points.

    Attributes:
        name: ``challenge``: ground truth expanded by the hierarchy, detections of classes that are not verified in an
            image ignored, group-of boxes worth one true positive. ``v2``: no hierarchy, every detection counts,
            group-of boxes worth nothing.
        expand_detections: Add the ancestors of every detection first. The official evaluator does not.
        iou_threshold: In (0, 1].
        ancestor_nms: IoU threshold of the NMS that follows ``expand_detections``; None: no NMS. See
            :func:`mmoid.openimages.predictions.ancestors.add_ancestors`.

    Raises:
        ValueError: Another name, a threshold out of range.
    """

    name: Literal['challenge', 'v2'] = 'challenge'
    expand_detections: bool = False
    iou_threshold: float = 0.5
    ancestor_nms: float | None = 0.5

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise ValueError(f'protocol must be one of {", ".join(PROTOCOLS)}, got {self.name!r}')
        if not 0 < self.iou_threshold <= 1:
            raise ValueError(f'iou_threshold must be in (0, 1], got {self.iou_threshold}')
        if self.ancestor_nms is not None and not 0 < self.ancestor_nms < 1:
            raise ValueError(f'ancestor_nms must be between 0 and 1, got {self.ancestor_nms}')

    @property
    def is_challenge(self) -> bool:
        """Whether ground truth is expanded and classes that are not verified are ignored."""
        return self.name == 'challenge'

    @property
    def group_of_weight(self) -> float:
        """Value of a group-of box that was found."""
        return 1.0 if self.is_challenge else 0.0

    @property
    def as_json(self) -> dict[str, Any]:
        """The rules as JSON values."""
        return {
            'metric': self.name,
            'group_of_weight': self.group_of_weight,
            'iou': self.iou_threshold,
            'expand_detections': self.expand_detections,
            'ancestor_nms': self.ancestor_nms if self.expand_detections else None,
        }

    def describe(self, has_image_labels: bool) -> str:
        """The rules in words."""
        rules = 'Open Images V2 metric, no hierarchy, all detections count, group-of weight 0'
        if self.is_challenge:
            labels = 'with image-level labels' if has_image_labels else 'no image-level labels in the annotations'
            rules = f'Open Images Challenge metric, ground truth expanded, {labels}, group-of weight 1'
        nms = 'no NMS' if self.ancestor_nms is None else f'NMS {self.ancestor_nms:g}'
        detections = f'detections expanded, {nms}' if self.expand_detections else 'detections as predicted'
        return f'{rules}, {detections}, IoU {self.iou_threshold:g}'


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Evaluates detections against annotations.

    Attributes:
        annotations: Of all images.
        protocol: The rules.
        train_images: (C,) int training images of each class, for the mAP of classes by frequency; None: without.

    Raises:
        ValueError: The protocol needs a hierarchy and there is none.
    """

    annotations: Annotations
    protocol: Protocol = field(default_factory=Protocol)
    train_images: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.annotations.hierarchy is None and (self.protocol.is_challenge or self.protocol.expand_detections):
            purpose = 'the challenge protocol' if self.protocol.is_challenge else 'expanding detections'
            raise ValueError(f'hierarchy: is needed for {purpose}; give the hierarchy JSON of these classes')

    @cached_property
    def ground_truth(self) -> GroundTruth:
        """The annotations, prepared by the rules of the protocol."""
        is_challenge = self.protocol.is_challenge
        return GroundTruth.build(self.annotations, expand=is_challenge, verified_only=is_challenge)

    @cached_property
    def _objects(self) -> np.ndarray:
        return annotated_objects(self.annotations)

    def with_ancestors(self, found: Detections) -> Detections:
        """The detections of some images as they are evaluated: with their ancestors if the protocol says so."""
        hierarchy = self.annotations.hierarchy
        if self.protocol.expand_detections and hierarchy is not None:
            return with_ancestors(hierarchy, found, self.protocol.ancestor_nms)
        return found

    def match(self, found: Detections) -> Matches:
        """Matches all detections of some images, ancestors included."""
        return match_detections(self.ground_truth, *found, self.protocol.iou_threshold, self.protocol.group_of_weight)

    def evaluate(
        self,
        matches: Matches,
        detections_of_image: np.ndarray,
        images: np.ndarray | None = None,
        summary: Summary | None = None,
    ) -> Evaluation:
        """Computes the figures.

        Args:
            matches: Of all images evaluated, each once.
            detections_of_image: (I,) int detections of each image evaluated, ancestors included.
            images: (I,) int indices of these images, each once; None: all.
            summary: Detections that were not matched, and those that were changed while they were read.
        """
        annotations, num_classes = self.annotations, len(self.annotations.classes)
        summary = summary or Summary()
        positives = count_positives(self.ground_truth, self.protocol.group_of_weight, images)
        num_images = len(detections_of_image)
        counts = f'{num_images} images, {(positives > 0).sum()} of {num_classes} classes'
        return Evaluation(
            description=f'{self.protocol.describe(len(annotations.label_class) > 0)}, {counts}',
            rules=self.protocol.as_json,
            classes=annotations.classes,
            ap=average_precision(matches, positives),
            positives=positives,
            scored=np.bincount(matches.label, minlength=num_classes),
            true_positives=np.bincount(matches.label, weights=matches.value, minlength=num_classes),
            num_images=num_images,
            num_images_without_detections=int((detections_of_image == 0).sum()),
            num_detections=int(detections_of_image.sum()) + sum(summary.dropped.values()),
            left_out=summary.by_reason('dropped'),
            changed=summary.by_reason('changed'),
            groups=class_groups(annotations, self.train_images),
            multi_label=multi_label_recall(annotations, self._objects, self.ground_truth, matches.found, images),
            class_columns=class_columns(annotations, self.train_images),
        )


def evaluate_predictions(
    annotations: Annotations,
    predictions: Predictions,
    protocol: Protocol | None = None,
    other_classes: Literal['error', 'drop'] = 'error',
    progress: Progress = no_progress,
    train_images: np.ndarray | None = None,
) -> Evaluation:
    """The official metric over all annotated images, with or without predictions on them.

    Args:
        annotations: Of all images.
        predictions: Matched to them by ImageID and MID. Those on other images are left out, as the official evaluator
            does, and counted.
        protocol: The rules; None: those of the challenge.
        other_classes: What to do with detections of classes that are not annotated: raise, or leave them out.
        progress: Progress of the matching.
        train_images: As of :class:`Evaluator`.

    Raises:
        AnnotationError: As of :func:`align_predictions`.
        ValueError: The protocol needs a hierarchy and there is none.
    """
    evaluator = Evaluator(annotations, protocol or Protocol(), train_images)
    aligned, image_of = align_predictions(predictions, annotations.image_ids, annotations.classes, other_classes)
    given = np.zeros(len(annotations.image_ids), dtype=np.int64)
    matches = []
    for start, stop in runs_of_rows(np.diff(aligned.detection_stop, prepend=0), DETECTIONS_AT_ONCE):
        found = aligned.detections(np.arange(start, stop))
        expanded = evaluator.with_ancestors(found._replace(image=image_of[start:stop][found.image]))
        given += np.bincount(expanded.image, minlength=len(given))
        matches.append(evaluator.match(expanded))
        progress('matching detections', int(aligned.detection_stop[stop - 1]), len(aligned.label))
    return evaluator.evaluate(Matches.concatenate(matches), given, summary=aligned.summary)
