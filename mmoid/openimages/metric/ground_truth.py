"""GroundTruth: boxes and verified classes of an evaluation set, expanded by the hierarchy.

Images and classes are indices. A *key*, ``image * num_classes + label``, names one image and class, the unit within
which detections are matched to boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mmoid.openimages.metric.annotations import Annotations
from mmoid.openimages.store.annotation_store import NOT_EXHAUSTIVE


class KeyedBoxes(NamedTuple):
    """Boxes ordered by key; boxes of one key keep their row order, which decides ties.

    ``key`` (K,) int64, ``box`` (K, 4) float64, ``row`` (K,) int64 row of each box in the ground truth.
    """

    key: np.ndarray
    box: np.ndarray
    row: np.ndarray


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Expanded boxes and verified classes. Make it with :meth:`build`."""

    num_images: int  # images evaluated, those without boxes included
    num_classes: int  # C
    image: np.ndarray  # (G,) int64 image index of each box
    label: np.ndarray  # (G,) int64 class index of each box
    box: np.ndarray  # (G, 4) float64 xmin, ymin, xmax, ymax
    is_group_of: np.ndarray  # (G,) bool
    source: np.ndarray  # (G,) int64 row of the annotation that each box is a copy of
    # (V,) int64 sorted unique keys of verified (image, class) pairs; others are ignored. None: all pairs count
    verified: np.ndarray | None
    # (K,) int64 sorted unique keys of the pairs in which some objects may have no box; unmatched detections are ignored
    not_exhaustive: np.ndarray

    @classmethod
    def build(cls, annotations: Annotations, expand: bool = True, verified_only: bool = True) -> GroundTruth:
        """Prepares annotations as the official code does. Nothing is deduplicated.

        Args:
            annotations: Of all images. Boxes without area are fine.
            expand: Copy boxes and positive labels to ancestors, negative labels to descendants. Needs a hierarchy.
            verified_only: Ignore detections of classes that are not verified in their image, and those that match no
                box where some objects may have none.
        """
        num_images, num_classes = len(annotations.image_ids), len(annotations.classes)
        label, source = annotations.label.astype(np.int64), np.arange(len(annotations.label))
        label_class, rows = annotations.label_class.astype(np.int64), np.arange(len(annotations.label_class))
        if expand:
            hierarchy = annotations.hierarchy
            assert hierarchy is not None
            source, label = hierarchy.expand_up(label)
            rows, label_class = hierarchy.expand_labels(label_class, annotations.label_confidence)
        image = annotations.image[source].astype(np.int64)
        verified, not_exhaustive = None, np.empty(0, dtype=np.int64)
        if verified_only:
            label_key = annotations.label_image[rows].astype(np.int64) * num_classes + label_class
            verified = np.unique(np.concatenate([image * num_classes + label, label_key]))
            not_exhaustive = np.unique(label_key[annotations.label_confidence[rows] == NOT_EXHAUSTIVE])
        box, group = annotations.box[source], annotations.is_group_of[source]
        return cls(num_images, num_classes, image, label, box, group, source, verified, not_exhaustive)

    @cached_property
    def single_boxes(self) -> KeyedBoxes:
        """Boxes of single objects."""
        return self._keyed(~self.is_group_of)

    @cached_property
    def group_boxes(self) -> KeyedBoxes:
        """Group-of boxes."""
        return self._keyed(self.is_group_of)

    def _keyed(self, chosen: np.ndarray) -> KeyedBoxes:
        rows = np.flatnonzero(chosen)
        key = self.image[rows] * self.num_classes + self.label[rows]
        order = np.argsort(key, kind='stable')
        return KeyedBoxes(key[order], self.box[rows[order]], rows[order])
