"""GroundTruth: boxes and verified classes of an evaluation set, expanded by the hierarchy.

Images and classes are indices. A *key*, ``image * num_classes + label``, names one image and class, the unit within
which detections are matched to boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mmoid.openimages.hierarchy import ClassHierarchy


class KeyedBoxes(NamedTuple):
    """Boxes ordered by key; boxes of one key keep their row order, which decides ties.

    ``key`` (K,) int64, ``box`` (K, 4) float64, ``row`` (K,) int64 row of each box in the ground truth.
    """

    key: np.ndarray
    box: np.ndarray
    row: np.ndarray


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Expanded boxes and verified classes. Make it with :meth:`build`.

    Attributes:
        num_images: Images evaluated, those without boxes included.
        num_classes: C.
        image: (G,) int64 image index of each box.
        label: (G,) int64 class index of each box.
        box: (G, 4) float64 xmin, ymin, xmax, ymax.
        is_group_of: (G,) bool.
        source: (G,) int64 row of the annotation that each box is a copy of.
        verified: (V,) int64 sorted unique keys of the verified (image, class) pairs. Detections of other pairs are
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
        """Expands annotations as the official preparation does. Nothing is deduplicated.

        Args:
            num_images: Number of images that occur in boxes or labels.
            num_classes: C.
            image: (B,) int image index of each box.
            label: (B,) int class index of each box.
            box: (B, 4) xmin, ymin, xmax, ymax. Boxes without area are fine.
            is_group_of: (B,) bool or 0/1.
            label_image: (L,) int image index of each image-level label.
            label_class: (L,) int class index of each image-level label.
            label_confidence: (L,) 0: the class is absent; above 0: it is present.
            hierarchy: Copies boxes and positive labels to ancestors, negative labels to descendants. None: no copies.
            verified_only: Ignore detections of classes that are not verified in their image.

        Raises:
            ValueError: An index out of range.
        """
        image = index_column('image', image, num_images)
        label = index_column('label', label, num_classes)
        box = np.asarray(box, dtype=np.float64).reshape(-1, 4)
        group = np.asarray(is_group_of, dtype=bool)
        label_image = index_column('label_image', label_image, num_images)
        label_class = index_column('label_class', label_class, num_classes)
        confidence = np.asarray(label_confidence, dtype=np.float64)

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
        return cls(num_images, num_classes, image, label, box, group, source, verified)

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


def index_column(name: str, values: Any, bound: int) -> np.ndarray:
    """Values as (N,) int64. Raises a ValueError if one is not in [0, bound)."""
    array = np.asarray(values).astype(np.int64, copy=False)
    require_rows(name, array, (array >= 0) & (array < bound), f'0 <= index < {bound}')
    return array


def require_rows(name: str, values: np.ndarray, valid: np.ndarray, expected: str) -> None:
    """Raises a ValueError that names the first row that is not valid."""
    if not valid.all():
        row = int(np.argmin(valid))
        raise ValueError(f'{name}[{row}]: expects {expected}, got {values[row]}')
