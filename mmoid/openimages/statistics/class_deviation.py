"""How far the classes of a part of a data set are from their shares in the whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmoid.openimages.store.annotation_store import AnnotationStore


@dataclass(frozen=True)
class ClassDeviation:
    """Counts of each class in the whole and in a part, in images or in boxes.

    A part of n of N images keeps the ratios if class i occurs ``whole[i] * n / N`` times in it, which is rarely a whole
    number: the nearest that a part can come is the one below or the one above.

    Attributes:
        whole: (C,) int64.
        part: (C,) int64.
        whole_images: N.
        part_images: n.
    """

    whole: np.ndarray
    part: np.ndarray
    whole_images: int
    part_images: int

    @property
    def expected(self) -> np.ndarray:
        """(C,) float64: what the part would hold at the ratios of the whole."""
        return self.whole * (self.part_images / max(1, self.whole_images))

    @property
    def difference(self) -> np.ndarray:
        """(C,) float64: ``part - expected``."""
        return self.part - self.expected

    @property
    def beyond_rounding(self) -> np.ndarray:
        """(C,) int64: by how much the part misses both whole numbers next to the expected one; 0 is best."""
        product = self.whole.astype(np.int64) * self.part_images
        below = product // max(1, self.whole_images)
        above = -(-product // max(1, self.whole_images))
        return np.maximum(0, np.maximum(below - self.part, self.part - above))

    @property
    def relative(self) -> np.ndarray:
        """(C,) float64: frequency in the part over frequency in the whole, minus 1; 0 where the whole has none."""
        expected = self.expected
        return np.divide(self.part, expected, out=np.ones(len(expected)), where=expected > 0) - 1

    def largest(self) -> int:
        """The class of the largest absolute difference."""
        return int(np.abs(self.difference).argmax())

    def largest_relative(self, least_expected: float = 100) -> int | None:
        """The class of the largest relative difference among those with ``expected >= least_expected``, if any."""
        known = self.expected >= least_expected
        return int(np.where(known, np.abs(self.relative), -1).argmax()) if known.any() else None


def image_deviation(store: AnnotationStore, images: np.ndarray, expand_hierarchy: bool = False) -> ClassDeviation:
    """Compares the images with each class, counting for ancestors too if expanded.

    Args:
        store: The whole.
        images: (n,) indices of the part's images.
        expand_hierarchy: See :meth:`AnnotationStore.class_image_counts`.
    """
    whole = store.class_image_counts(expand_hierarchy)
    chosen = _mask(store, images)[store.class_images(expand_hierarchy)]
    label = np.repeat(np.arange(store.num_classes), whole)
    part = np.bincount(label[chosen], minlength=store.num_classes)
    return ClassDeviation(whole, part, store.num_images, len(images))


def box_deviation(store: AnnotationStore, images: np.ndarray) -> ClassDeviation:
    """Compares the boxes of each class, as annotated."""
    chosen = np.repeat(_mask(store, images), np.diff(store.box_stop, prepend=0))
    part = np.bincount(store.box_label[chosen], minlength=store.num_classes)
    return ClassDeviation(store.class_box_counts, part, store.num_images, len(images))


def _mask(store: AnnotationStore, images: np.ndarray) -> np.ndarray:
    mask = np.zeros(store.num_images, dtype=bool)
    mask[images] = True
    return mask
