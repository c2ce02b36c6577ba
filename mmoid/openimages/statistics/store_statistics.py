"""Statistics of a store: imbalance, several labels per object, missing labels (Sec. 3 of the paper, Fig. 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.statistics.concurrent_rates import OverlapLevel, count_by_threshold
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.progress import Progress, no_progress

COMPARED = (0.9, 0.8, 0.7, 0.5)
"""IoU thresholds that the overlapping boxes are counted at, for comparison."""


@dataclass(frozen=True)
class LeafAbsence:
    """Objects of parent classes without a finer label (Fig. 3b).

    An object belongs to a class if it has the label of the class or of a descendant. Expanding the annotations by the
    hierarchy does not change the figures.
    """

    label: np.ndarray  # (P,) int64, the classes with descendants
    objects: np.ndarray  # (P,) int64, the objects of each
    without_leaf: np.ndarray  # (P,) int64, those with the label itself and no label of a descendant

    @property
    def share(self) -> np.ndarray:
        """(P,) float64 in [0, 1]: ``without_leaf / objects``; 0 for classes without objects."""
        share: np.ndarray = self.without_leaf / np.maximum(self.objects, 1)
        return share


@dataclass(frozen=True)
class Statistics:
    """All statistics of the report."""

    level: OverlapLevel  # objects at the IoU threshold in use
    compared: Sequence[OverlapLevel]  # objects at the thresholds of :data:`COMPARED`
    leaf_absence: LeafAbsence
    label_set_sizes: np.ndarray  # (K,) int64, entry k: objects with k labels, as annotated
    expanded_sizes: np.ndarray  # (K,) int64, the same after adding ancestors
    verified: int  # (image, class) pairs that are verified, by boxes or image-level labels


def measure(store: AnnotationStore, iou_threshold: float = 0.9, progress: Progress = no_progress) -> Statistics:
    """All statistics of a store. Boxes of one image with at least ``iou_threshold``, in (0, 1], are on one object."""
    level, *others = count_by_threshold(store, [iou_threshold, *COMPARED], progress)
    return Statistics(
        level=level,
        compared=others,
        leaf_absence=leaf_absence(level.labels, store.hierarchy),
        label_set_sizes=label_set_sizes(level.labels),
        expanded_sizes=label_set_sizes(level.labels @ store.hierarchy.self_and_ancestors),
        verified=count_verified(store),
    )


def count_verified(store: AnnotationStore) -> int:
    """(image, class) pairs that the metric counts: present classes with ancestors, absent ones with descendants."""
    rows, label_class = store.hierarchy.expand_labels(store.image_label, store.image_label_confidence)
    label, image = store.images_by_class().nonzero()
    image = np.concatenate([image, store.image_of_label()[rows]])
    return len(np.unique(image * store.num_classes + np.concatenate([label, label_class])))


def head_to_tail(counts: np.ndarray) -> float:
    """Count of the most frequent class over that of the rarest class with any; 1 if all (C,) counts are 0."""
    present = counts[counts > 0]
    return float(present.max() / present.min()) if len(present) else 1.0


def leaf_absence(labels: csr_array, hierarchy: ClassHierarchy) -> LeafAbsence:
    """Objects of each parent class, and those without a label of a descendant, by the (O, C) labels of each object."""
    parents = np.flatnonzero(~hierarchy.is_leaf)
    objects = (labels @ hierarchy.self_and_ancestors[:, parents]).sum(axis=0)
    finer = (labels @ hierarchy.sparse_ancestors[:, parents]).sum(axis=0)
    return LeafAbsence(parents, objects, objects - finer)


def label_set_sizes(labels: csr_array) -> np.ndarray:
    """(K,) int64, entry k: objects with k labels, from the (O, C) bool labels of each object."""
    return np.bincount(np.diff(labels.indptr))
