"""Statistics of a store: imbalance, several labels per object, missing labels (Sec. 3 of the paper, Fig. 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.statistics.concurrent_rates import OverlapLevel, count_by_threshold
from mmoid.openimages.statistics.objects import LabelSets
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.progress import Progress, no_progress


@dataclass(frozen=True)
class Imbalance:
    """How often each class occurs (Fig. 2)."""

    boxes: np.ndarray  # (C,) int64 boxes, as annotated
    images: np.ndarray  # (C,) int64 images that hold such a box
    expanded_images: np.ndarray  # (C,) int64 images that hold a box of the class or a descendant


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
class LabelSetSizes:
    """Objects by their number of labels."""

    annotated: np.ndarray  # (K,) int64, entry k: objects with k labels, as annotated
    expanded: np.ndarray  # (K,) int64, the same after adding ancestors


@dataclass(frozen=True)
class Statistics:
    """All statistics of the report."""

    level: OverlapLevel  # objects at the IoU threshold in use
    compared: Sequence[OverlapLevel]  # objects at other thresholds
    imbalance: Imbalance
    leaf_absence: LeafAbsence
    label_set_sizes: LabelSetSizes
    verified: int  # (image, class) pairs that are verified, by boxes or image-level labels


def measure(
    store: AnnotationStore,
    iou_threshold: float = 0.9,
    compared: Sequence[float] = (0.9, 0.8, 0.7, 0.5),
    progress: Progress = no_progress,
) -> Statistics:
    """All statistics of a store. Boxes of one image with an IoU of ``iou_threshold`` or more are on one object.

    ``compared`` are further thresholds, for the count of overlapping boxes only; all are in (0, 1].
    """
    level, *others = count_by_threshold(store, [iou_threshold, *compared], progress)
    return Statistics(
        level=level,
        compared=others,
        imbalance=Imbalance(store.class_box_counts, store.class_image_counts(False), store.class_image_counts(True)),
        leaf_absence=leaf_absence(level.label_sets, store.hierarchy),
        label_set_sizes=label_set_sizes(level.label_sets, store.hierarchy),
        verified=count_verified(store),
    )


def count_verified(store: AnnotationStore) -> int:
    """(image, class) pairs that the metric counts: present classes with ancestors, absent ones with descendants."""
    absent = store.image_label_confidence == 0
    label_image, label = store.image_of_label(), store.image_label
    up = np.concatenate([store.image_of_box(), label_image[~absent]])
    up_class = np.concatenate([store.box_label, label[~absent]])
    keys = [
        image[rows] * store.num_classes + expanded
        for image, (rows, expanded) in (
            (up, store.hierarchy.expand_up(up_class)),
            (label_image[absent], store.hierarchy.expand_down(label[absent])),
        )
    ]
    return len(np.unique(np.concatenate(keys)))


def head_to_tail(counts: np.ndarray) -> float:
    """Count of the most frequent class over that of the rarest class with any; 1 if all (C,) counts are 0."""
    present = counts[counts > 0]
    return float(present.max() / present.min()) if len(present) else 1.0


def leaf_absence(sets: LabelSets, hierarchy: ClassHierarchy) -> LeafAbsence:
    """Objects of each parent class, and those without a label of a descendant."""
    parents = np.flatnonzero(~hierarchy.is_leaf)
    descends = hierarchy.ancestor_matrix[:, parents].astype(np.int64)  # [j, p]: j is a descendant of parent p
    own = sets.shared[:, parents].toarray() > 0  # (G, P): objects of several boxes
    finer = np.asarray(sets.shared @ descends) > 0
    # An object of one box has one label: it is of the parent by that label or by a finer one.
    alone = sets.alone[parents]
    objects = alone + sets.alone @ descends + (own | finer).sum(axis=0)
    return LeafAbsence(parents, objects, alone + (own & ~finer).sum(axis=0))


def label_set_sizes(sets: LabelSets, hierarchy: ClassHierarchy) -> LabelSetSizes:
    """Objects by the number of different labels, before and after ancestors are added."""
    annotated = np.bincount(np.diff(sets.shared.indptr), minlength=2)
    annotated[1] += sets.alone.sum()
    objects, labels = sets.shared.nonzero()
    rows, labels = hierarchy.expand_up(labels)
    keys = np.unique(objects[rows].astype(np.int64) * hierarchy.num_classes + labels)
    shared = np.bincount(np.bincount(keys // hierarchy.num_classes, minlength=sets.shared.shape[0]))
    size_alone = 1 + hierarchy.ancestor_matrix.sum(axis=1)
    expanded = np.zeros(max(len(shared), int(size_alone.max(initial=1)) + 1), dtype=np.int64)
    expanded[: len(shared)] = shared
    np.add.at(expanded, size_alone, sets.alone)
    return LabelSetSizes(annotated, np.trim_zeros(expanded, 'b'))
