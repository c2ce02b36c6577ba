"""GroundTruth: boxes and verified classes of an evaluation set, expanded by the hierarchy.

Images and classes are indices. A *key*, ``image * num_classes + label``, names one image and class, the unit within
which detections are matched to boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
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
            ValueError: Arrays of different lengths, an index out of range, a box with swapped corners or a value that
                is not finite, a group-of flag other than 0 and 1.
        """
        if hierarchy is not None and hierarchy.num_classes != num_classes:
            raise ValueError(f'hierarchy: expects {num_classes} classes, got {hierarchy.num_classes}')
        image = index_column('image', image, num_images)
        label = index_column('label', label, num_classes, len(image))
        box = float_array('box', box, (len(image), 4))
        upright = np.isfinite(box).all(axis=1) & (box[:, :2] <= box[:, 2:]).all(axis=1)
        require_rows('box', box, upright, 'finite xmin <= xmax and ymin <= ymax')
        group = float_array('is_group_of', is_group_of, image.shape)
        require_rows('is_group_of', group, (group == 0) | (group == 1), '0 or 1')
        label_image = index_column('label_image', label_image, num_images)
        label_class = index_column('label_class', label_class, num_classes, len(label_image))
        confidence = float_array('label_confidence', label_confidence, label_image.shape)
        require_rows('label_confidence', confidence, confidence >= 0, '0 (absent) or above 0 (present)')

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


def index_column(name: str, values: Any, bound: int, length: int | None = None) -> np.ndarray:
    """Values as (N,) int64, each in [0, bound). Raises ValueError for anything else."""
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f'{name}: expects integers, got {array.dtype}')
    array = array.astype(np.int64, copy=False)
    if array.ndim != 1 or len(array) != (len(array) if length is None else length):
        expected = 'one dimension' if length is None else f'shape ({length},)'
        raise ValueError(f'{name}: expects {expected}, got shape {array.shape}')
    require_rows(name, array, (array >= 0) & (array < bound), f'0 <= index < {bound}')
    return array


def float_array(name: str, values: Any, shape: Sequence[int]) -> np.ndarray:
    """Values as float64 of this shape; an empty list fits any shape without rows. Raises ValueError otherwise."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape == (0,):
        array = array.reshape(0, *shape[1:])
    if array.shape != tuple(shape):
        raise ValueError(f'{name}: expects shape {tuple(shape)}, got {array.shape}')
    return array


def require_rows(name: str, values: np.ndarray, valid: np.ndarray, expected: str) -> None:
    """Raises a ValueError that names the first row that is not valid."""
    if not valid.all():
        row = int(np.argmin(valid))
        raise ValueError(f'{name}[{row}]: expects {expected}, got {values[row]}')
