"""Recall of objects with several labels: of a Wheel that is also a Tire, are both found?

An object is a set of boxes of one image that overlap by IoU >= 0.9 (:mod:`mmoid.openimages.statistics.objects`). It
counts here if its annotated boxes carry different labels. A label of it is found if the official matching
(:mod:`mmoid.openimages.metric.matching`) gives a detection of that class, at any score, to a box of the object: to a
box of the label, or to the copy of a descendant's box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmoid.openimages.metric.annotations import Annotations
from mmoid.openimages.metric.ground_truth import GroundTruth
from mmoid.openimages.statistics.objects import object_of_box


@dataclass(frozen=True)
class MultiLabelRecall:
    """``objects`` with several labels, their (object, label) ``pairs``, and how many of these were ``found``."""

    objects: int
    pairs: int
    found: int

    @property
    def recall(self) -> float:
        """In [0, 1]; NaN without such objects."""
        return self.found / self.pairs if self.pairs else math.nan


def annotated_objects(annotations: Annotations) -> np.ndarray:
    """(B,) int64 object of each annotated box, whatever its labels; -1: a group-of box."""
    order = np.argsort(annotations.image, kind='stable')  # the rows of an image may lie anywhere in a file
    stop = np.cumsum(np.bincount(annotations.image, minlength=len(annotations.image_ids)))
    objects = np.empty(len(order), dtype=np.int64)
    objects[order] = object_of_box(annotations.box[order], stop, annotations.is_group_of[order])
    return objects


def multi_label_recall(
    annotations: Annotations,
    objects: np.ndarray,
    ground_truth: GroundTruth,
    found: np.ndarray,
    images: np.ndarray | Sequence[int] | None = None,
) -> MultiLabelRecall:
    """Counts the (object, label) pairs that were found.

    Args:
        annotations: Of all images.
        objects: Their :func:`annotated_objects`.
        ground_truth: Built from them, expanded or not.
        found: (F,) rows of the ground truth that were found (:attr:`Matches.found`).
        images: (I,) int indices of the images evaluated; None: all.
    """
    num_classes = len(annotations.classes)
    counts = objects >= 0
    if images is not None:
        counts &= np.isin(annotations.image, images)
    pair = np.unique(objects[counts] * num_classes + annotations.label[counts])
    pair = pair[np.bincount(pair // num_classes)[pair // num_classes] > 1]
    of_found = objects[ground_truth.source[found]] * num_classes + ground_truth.label[found]
    return MultiLabelRecall(len(np.unique(pair // num_classes)), len(pair), int(np.isin(pair, of_found).sum()))
