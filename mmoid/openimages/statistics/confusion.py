"""Confusion: which labels a model gives to the objects of a class (Fig. 3a of the paper, by a model).

Nobody labels a flashlight as torch and as flashlight: some annotators say the one, some the other. Rates from
annotations (:mod:`mmoid.openimages.statistics.concurrent_rates`) are 0 for such a pair. But a model cannot tell the two
apart either. It gives flashlight the same score whichever of the two an object is labelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from mmoid.openimages.predictions.prediction_store import Predictions, align_predictions
from mmoid.openimages.statistics.concurrent_rates import most_frequent_pairs
from mmoid.openimages.statistics.objects import first_of_each, labels_of_objects, object_of_box, overlapping_pairs
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.progress import Progress, no_progress

LEAST_SCORE = 0.01  # a mean score below says that a model does not know a class; a ratio of such says nothing


@dataclass(frozen=True)
class Confusion:
    """Labels annotated and labels predicted on the same objects.

    An annotation supports its labels and their ancestors, no finer label (Fig. 3b). The mean score s_ij is the mean,
    over the objects labelled i, of the best score of a detection of j on the object, or 0 without one.
    """

    objects: np.ndarray  # (C,) int64, objects labelled i, on the images that were predicted
    predicted: np.ndarray  # (C, C) int64, those on which j is predicted with ``score_threshold`` or more
    confused: np.ndarray  # (C, C) int64, those of ``predicted`` whose annotation does not support j; the diagonal is 0
    mean_scores: np.ndarray  # (C, C) float64 in [0, 1], s_ij
    left_out: Mapping[str, int]  # number of detections that were left out or changed, by description

    @property
    def rates(self) -> np.ndarray:
        """(C, C) float32 in [0, 1]: c_ij, the share of the objects labelled i that the model confuses with j."""
        return (self.confused / np.maximum(self.objects, 1)[:, None]).astype(np.float32)

    @property
    def interchangeability(self) -> np.ndarray:
        """(C, C) float64, min(s_ij / s_jj, s_ji / s_ii): about 1 where annotators mix i and j up at random.

        Near 0 for classes that the model tells apart; 0 on the diagonal and for classes that the model does not know.
        """
        own = np.diag(self.mean_scores)
        ratio = np.where(own < LEAST_SCORE, 0, self.mean_scores / np.maximum(own, LEAST_SCORE))
        mutual = np.minimum(ratio, ratio.T)
        np.fill_diagonal(mutual, 0)
        return mutual

    def top_pairs(self, count: int) -> list[tuple[int, int, int]]:
        """The ``count`` most frequent confusions as (labelled i, predicted j, objects), most frequent first."""
        return most_frequent_pairs(self.confused, count)


def count_confusion(
    store: AnnotationStore,
    predictions: Predictions,
    score_threshold: float = 0.5,
    progress: Progress = no_progress,
) -> Confusion:
    """Counts what a model predicts on each annotated object.

    Objects are those of :mod:`mmoid.openimages.statistics.objects`. A detection is assigned to at most one object of
    its image with a box that it overlaps with IoU >= 0.5: to one whose labels support it if possible (a Man in front of
    a Woman is found, not confused), then to the one with the greatest IoU, then to the first row.

    Predictions are on all or some of the store's images; objects of other images do not count. Errors are those of
    :func:`align_predictions`. Progress is in detections.
    """
    num_classes = store.num_classes
    predictions, image_of = align_predictions(predictions, store.image_ids(), store.classes)
    object_index = object_of_box(store.box, store.box_stop, store.is_group_of)
    boxes_of_image = np.diff(store.box_stop, prepend=0)
    was_predicted = np.zeros(store.num_images, dtype=bool)
    was_predicted[image_of] = True
    single = (object_index >= 0) & np.repeat(was_predicted, boxes_of_image)

    labels = labels_of_objects(np.where(single, object_index, -1), store.box_label, num_classes)
    row, label = (labels @ store.hierarchy.self_and_ancestors).nonzero()
    supported = row.astype(np.int64) * num_classes + label  # (object, class) as one number

    image = image_of[predictions.image_of_detection()]
    count = boxes_of_image[image]
    start = store.box_stop[image] - count
    detection, box, iou = overlapping_pairs(predictions.box, store.box, start, count, 0.5, progress)
    kept = single[box]
    detection, box, iou = detection[kept], box[kept], iou[kept]
    said = object_index[box] * num_classes + predictions.label[detection]
    best = first_of_each(detection, -iou, ~np.isin(said, supported))
    said, score = said[best], predictions.score[detection[best]].astype(np.float64)
    highest = first_of_each(said, -score)
    said, score = said[highest], score[highest]

    def over_objects(values: np.ndarray) -> np.ndarray:
        """(C, C) sums over the objects labelled i."""
        return np.asarray((labels.T @ csr_array((values, np.divmod(said, num_classes)), labels.shape)).toarray())

    above = (score >= score_threshold).astype(np.int64)
    objects = np.bincount(labels.indices, minlength=num_classes)
    return Confusion(
        objects=objects,
        predicted=over_objects(above),
        confused=over_objects(above * ~np.isin(said, supported)),
        mean_scores=over_objects(score) / np.maximum(objects, 1)[:, None],
        left_out=predictions.counts(),
    )
