"""Classes that annotators mix up at random, found by the scores of a trained model.

Nobody labels a flashlight as torch and as flashlight: some annotators say the one, some the other. Rates from
annotations are 0 for such a pair. But a model cannot tell the two apart either, so it gives flashlight the same score
whichever of the two an object is labelled.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.statistics.confusion import _class_indices, _image_indices
from mmoid.openimages.statistics.objects import object_of_box, overlapping_pairs
from mmoid.openimages.store.annotation_store import AnnotationStore

LEAST_SCORE = 0.01
"""Mean score below which a model does not know a class; a ratio of such scores says nothing."""


def interchangeability(mean_scores: np.ndarray) -> np.ndarray:
    """How far a model's scores do not depend on which of two classes annotators chose.

    Args:
        mean_scores: (C, C) s_ij, mean score of class j on objects labelled i.

    Returns:
        (C, C) symmetric, min(s_ij / s_jj, s_ji / s_ii); about 1 for classes that are mixed up at random, near 0 for
        classes that the model tells apart. 0 on the diagonal and for classes that the model does not know.

    Example:
        >>> interchangeability(np.array([[0.4, 0.4, 0.0], [0.4, 0.4, 0.1], [0.0, 0.1, 0.9]])).round(2)
        array([[0.  , 1.  , 0.  ],
               [1.  , 0.  , 0.11],
               [0.  , 0.11, 0.  ]])
    """
    own = np.diag(mean_scores)
    ratio = mean_scores / np.maximum(own, LEAST_SCORE)[None, :]
    ratio[:, own < LEAST_SCORE] = 0
    mutual = np.minimum(ratio, ratio.T)
    np.fill_diagonal(mutual, 0)
    return mutual


def with_interchangeable(rates: np.ndarray, mutual: np.ndarray, least: float = 0.9) -> np.ndarray:
    """(C, C) rates: 1 for classes with :func:`interchangeability` above ``least``, else as in ``rates``."""
    return np.where(mutual > least, np.float32(1), rates)


def count_mean_scores(
    store: AnnotationStore, predictions: PredictionStore, match_iou: float = 0.5, same_object_iou: float = 0.9
) -> np.ndarray:
    """(C, C) s_ij: the mean, over the objects labelled i, of the best score of a detection of j on the object.

    An object without such a detection counts as 0. A detection belongs to the object with the box that it overlaps
    most, with IoU >= ``match_iou``.
    """
    num_classes = store.num_classes
    class_of, image_of = _class_indices(store, predictions), _image_indices(store, predictions)
    object_index = object_of_box(store.box, store.box_stop, store.is_group_of, same_object_iou)
    boxes_of_image = np.diff(store.box_stop, prepend=0)
    was_predicted = np.zeros(store.num_images, dtype=bool)
    was_predicted[image_of] = True
    single = (object_index >= 0) & np.repeat(was_predicted, boxes_of_image)
    annotated = np.unique(object_index[single] * num_classes + store.box_label[single])

    image = image_of[predictions.image_of_detection()]
    count = boxes_of_image[image]
    detection, box, iou = overlapping_pairs(predictions.box, store.box, store.box_stop[image] - count, count, match_iou)
    kept = single[box]
    detection, box, iou = detection[kept], box[kept], iou[kept]
    best_first = np.lexsort([-iou, detection])
    best = best_first[np.unique(detection[best_first], return_index=True)[1]]
    key = object_index[box[best]] * num_classes + class_of[predictions.label[detection[best]]]
    score = predictions.score[detection[best]].astype(np.float64)
    highest_first = np.lexsort([-score, key])
    highest = highest_first[np.unique(key[highest_first], return_index=True)[1]]

    shape = (int(object_index.max(initial=-1)) + 1, num_classes)
    labelled = csr_matrix((np.ones(len(annotated)), np.divmod(annotated, num_classes)), shape)
    scored = csr_matrix((score[highest], np.divmod(key[highest], num_classes)), shape)
    objects = np.bincount(annotated % num_classes, minlength=num_classes)
    return (labelled.T @ scored).toarray() / np.maximum(objects, 1)[:, None]
