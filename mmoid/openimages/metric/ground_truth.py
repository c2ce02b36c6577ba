"""GroundTruth: the boxes and verified classes that detections are held against, expanded by the hierarchy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.metric.arrays import box_column, float_column, index_column, require_rows


class KeyedBoxes(NamedTuple):
    """Boxes ordered by key; row order is kept within a key, for it decides ties.

    ``key`` (K,) int64, ``box`` (K, 4) float64, ``row`` (K,) int64: which row of the ground truth each one is.
    """

    key: np.ndarray
    box: np.ndarray
    row: np.ndarray


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Expanded boxes and verified classes of an evaluation set; made by :meth:`build`, which checks its input.

    Attributes:
        num_images: Images evaluated, those without any box included.
        num_classes: C.
        image: (G,) int64 image index per box row.
        label: (G,) int64 class index per box row.
        box: (G, 4) float64.
        is_group_of: (G,) bool.
        source: (G,) int64 row of the annotation that each is a copy of.
        verified: (V,) int64 sorted unique keys of the verified (image, class) pairs; a detection of any other pair is
            ignored. None: all pairs count.
    """

    num_images: int
    num_classes: int
    image: np.ndarray
    label: np.ndarray
    box: np.ndarray
    is_group_of: np.ndarray
    source: np.ndarray
    verified: np.ndarray | None

    @classmethod
    def build(
        cls,
        num_images: int,
        num_classes: int,
        image: Any,
        label: Any,
        box: Any,
        is_group_of: Any,
        label_image: Any,
        label_class: Any,
        label_confidence: Any,
        hierarchy: ClassHierarchy | None,
        verified_only: bool = True,
    ) -> GroundTruth:
        """Expands the annotations as the official preparation does; nothing is deduplicated.

        Args:
            num_images: Every image that occurs in boxes or labels.
            num_classes: C.
            image: (B,) int, image index of a box.
            label: (B,) int, its class index.
            box: (B, 4).
            is_group_of: (B,) bool or 0/1.
            label_image: (L,) int, image index of an image-level label.
            label_class: (L,) int, its class index.
            label_confidence: (L,); 0 says that the class is absent, anything above that it is present.
            hierarchy: Boxes and positive labels are copied to their ancestors, negative labels to their descendants.
                None: no expansion.
            verified_only: Count only detections of classes that are verified in their image.

        Raises:
            AnnotationError: Arrays of unequal length, an index out of range, an inverted or non-finite box (the
                official evaluator refuses those too; zero area is fine), a group-of flag other than 0 and 1.
        """
        if hierarchy is not None and hierarchy.num_classes != num_classes:
            raise AnnotationError(f'hierarchy: holds {hierarchy.num_classes} classes, expects {num_classes}')
        image = index_column('image', image, num_images)
        label = index_column('label', label, num_classes, len(image))
        box = box_column('box', box, len(image))
        upright = np.isfinite(box).all(axis=1) & (box[:, :2] <= box[:, 2:]).all(axis=1)
        require_rows('box', box, upright, 'finite xmin <= xmax and ymin <= ymax')
        group = float_column('is_group_of', is_group_of, len(image))
        require_rows('is_group_of', group, (group == 0) | (group == 1), '0 or 1')
        label_image = index_column('label_image', label_image, num_images)
        label_class = index_column('label_class', label_class, num_classes, len(label_image))
        confidence = float_column('label_confidence', label_confidence, len(label_image))
        require_rows('label_confidence', confidence, confidence >= 0, '0 (absent) or above (present)')

        source = np.arange(len(image))
        if hierarchy is not None:
            source, label = hierarchy.expand_up(label)
            image, box, group = image[source], box[source], group[source]
            present, absent = np.flatnonzero(confidence > 0), np.flatnonzero(confidence == 0)
            up, up_class = hierarchy.expand_up(label_class[present])
            down, down_class = hierarchy.expand_down(label_class[absent])
            label_image = label_image[np.concatenate([present[up], absent[down]])]
            label_class = np.concatenate([up_class, down_class])
        verified = None
        if verified_only:
            keys = [image * num_classes + label, label_image * num_classes + label_class]
            verified = np.unique(np.concatenate(keys))
        return cls(num_images, num_classes, image, label, box, group.astype(bool), source, verified)

    @cached_property
    def single_boxes(self) -> KeyedBoxes:
        """The boxes of single objects."""
        return self._keyed(~self.is_group_of)

    @cached_property
    def group_boxes(self) -> KeyedBoxes:
        """The group-of boxes."""
        return self._keyed(self.is_group_of)

    def _keyed(self, chosen: np.ndarray) -> KeyedBoxes:
        rows = np.flatnonzero(chosen)
        key = self.image[rows] * self.num_classes + self.label[rows]
        order = np.argsort(key, kind='stable')
        rows = rows[order]
        return KeyedBoxes(key[order], self.box[rows], rows)
