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


@dataclass(frozen=True, eq=False)
class MultiLabelObjects:
    """The objects with several labels of an evaluation set.

    Attributes:
        num_classes: C.
        object_of_box: (B,) int64 object of each annotated box, whatever its labels; -1: a group-of box.
        pair: (P,) int64 object * C + label, sorted, of the objects with several labels.
        image: (P,) int64 image of each pair.
    """

    num_classes: int
    object_of_box: np.ndarray
    pair: np.ndarray
    image: np.ndarray

    @classmethod
    def of(cls, annotations: Annotations) -> MultiLabelObjects:
        """Finds the objects of an evaluation set."""
        num_classes = len(annotations.classes)
        order = np.argsort(annotations.image, kind='stable')  # the rows of an image may lie anywhere in a file
        image, label = annotations.image[order], annotations.label[order].astype(np.int64)
        stop = np.searchsorted(image, np.arange(len(annotations.image_ids)), side='right')
        flags = annotations.is_group_of[order].astype(np.int8)
        objects = object_of_box(annotations.box[order], stop, flags)
        single = objects >= 0
        pair, first = np.unique((objects * num_classes + label)[single], return_index=True)
        num_labels = np.bincount(pair // num_classes, minlength=1)
        multi_label = num_labels[pair // num_classes] > 1
        in_file_order = np.empty(len(order), dtype=np.int64)
        in_file_order[order] = objects
        return cls(num_classes, in_file_order, pair[multi_label], image[single][first[multi_label]])

    def recall(
        self, ground_truth: GroundTruth, found: np.ndarray, images: np.ndarray | Sequence[int] | None = None
    ) -> MultiLabelRecall:
        """Counts the (object, label) pairs that were found.

        Args:
            ground_truth: Built from the same annotations, expanded or not.
            found: (F,) rows of the ground truth that were found (:attr:`Matches.found`).
            images: (I,) int indices of the images evaluated; None: all.
        """
        pair = self.pair if images is None else self.pair[np.isin(self.image, images)]
        of_found = self.object_of_box[ground_truth.source[found]] * self.num_classes + ground_truth.label[found]
        hit = np.isin(pair, of_found)
        return MultiLabelRecall(len(np.unique(pair // self.num_classes)), len(pair), int(hit.sum()))
