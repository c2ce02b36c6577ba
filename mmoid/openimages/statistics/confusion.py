"""Confusion: which labels a model gives to the objects of a class (the ratio of Fig. 3a of the paper, by a model).

Where many objects labelled Girl are also, or instead, found as Woman, annotators were no surer than the model: the
object has both labels implicitly. Rates from annotations (:mod:`mmoid.openimages.statistics.concurrent_rates`) only know the objects
to which somebody gave both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.statistics.objects import group_boxes, overlapping_pairs, single_object_pairs
from mmoid.openimages.store.annotation_store import AnnotationStore


@dataclass(frozen=True)
class Confusion:
    """Counts of labels annotated and labels predicted on the same objects.

    Attributes:
        objects: (C,) int64, objects labelled i, on the images that were predicted.
        predicted: (C, C) int64, objects labelled i on which j is predicted, for whatever reason; the diagonal holds
            the objects that are found under their own label.
        confused: (C, C) int64, those of them whose annotation does not bear j out: j is none of the object's labels
            and, with the hierarchy, no ancestor of one. A finer label than the annotated ones is not borne out either
            (Fig. 3b). The diagonal is 0.
    """

    objects: np.ndarray
    predicted: np.ndarray
    confused: np.ndarray

    @property
    def rates(self) -> np.ndarray:
        """(C, C) float32 in [0, 1]: c_ij, the share of the objects labelled i that the model confuses with j."""
        return (self.confused / np.maximum(self.objects, 1)[:, None]).astype(np.float32)

    @property
    def concurrent_rates(self) -> np.ndarray:
        """(C, C) float32 in [0, 1]: the share of the objects labelled i on which j is predicted, whether annotated
        too or not; 0 on the diagonal.
        """
        rates = (self.predicted / np.maximum(self.objects, 1)[:, None]).astype(np.float32)
        np.fill_diagonal(rates, 0)
        return rates

    def top_pairs(self, count: int) -> list[tuple[int, int, int]]:
        """The ``count`` most frequent confusions as (i, j, objects): labelled i, predicted j; most frequent first."""
        annotated, predicted = np.nonzero(self.confused)
        objects = self.confused[annotated, predicted]
        best = np.argsort(-objects, kind='stable')[:count]
        return [(int(annotated[k]), int(predicted[k]), int(objects[k])) for k in best]


def count_confusion(
    store: AnnotationStore,
    predictions: PredictionStore,
    *,
    score_threshold: float = 0.5,
    match_iou: float = 0.5,
    same_object_iou: float = 0.9,
    respect_hierarchy: bool = True,
) -> Confusion:
    """Counts what a model says of each annotated object.

    An object is a group of boxes of one image (group-of boxes left out) with all their labels, as in
    :func:`count_concurrence`. A detection speaks of at most one object: among those of its image that have a box
    which it overlaps with IoU >= ``match_iou``, of one whose labels bear it out if there is any (a Man in front of a
    Woman is found, not confused), and among equals of the one with the greatest IoU, the first row on a tie.

    Args:
        store: The annotations.
        predictions: Of the same classes, on all of the store's images or some; objects of other images do not count.
        score_threshold: Least score of a detection.
        match_iou: Least IoU of a detection and a box of the object.
        same_object_iou: Boxes that overlap at least so much are one object.
        respect_hierarchy: An ancestor of a label bears a detection out too; False: only the labels themselves.

    Raises:
        AnnotationError: Predictions of other classes, or of images that the store does not hold.
        ValueError: A threshold out of range.
    """
    num_classes = store.num_classes
    class_of, image_of = _class_indices(store, predictions), _image_indices(store, predictions)
    single, pairs = single_object_pairs(store.box, store.box_stop, store.is_group_of, same_object_iou)
    boxes_of_image = np.diff(store.box_stop, prepend=0)
    was_predicted = np.zeros(store.num_images, dtype=bool)
    was_predicted[image_of] = True
    single &= np.repeat(was_predicted, boxes_of_image)
    object_of_box = group_boxes(store.num_boxes, pairs.first, pairs.second).astype(np.int64)

    # (object, class) as one number, object * C + class.
    annotated = np.unique(object_of_box[single] * num_classes + store.box_label[single])
    borne_out = annotated
    if respect_hierarchy:
        rows, labels = store.hierarchy.expand_up(annotated % num_classes)
        borne_out = np.unique(annotated[rows] // num_classes * num_classes + labels)

    detections = np.flatnonzero(predictions.score >= score_threshold)
    image = image_of[predictions.image_of_detection()[detections]]
    count = boxes_of_image[image]
    detection, box, iou = overlapping_pairs(
        predictions.box[detections], store.box, store.box_stop[image] - count, count, match_iou
    )
    kept = single[box]
    detection, box, iou = detection[kept], box[kept], iou[kept]
    said = object_of_box[box] * num_classes + class_of[predictions.label[detections[detection]]]
    said = np.unique(said[_best_of_runs(detection, _contains(borne_out, said), iou)])

    num_objects = int(object_of_box.max(initial=-1)) + 1
    labelled = _incidence(annotated, num_objects, num_classes)
    predicted = labelled.T @ _incidence(said, num_objects, num_classes)
    confused = labelled.T @ _incidence(said[~_contains(borne_out, said)], num_objects, num_classes)
    objects = np.bincount(annotated % num_classes, minlength=num_classes)
    return Confusion(objects=objects, predicted=predicted.toarray(), confused=confused.toarray())


def _best_of_runs(run: np.ndarray, preferred: np.ndarray, value: np.ndarray) -> np.ndarray:
    """One entry of each run of equal numbers: of the preferred, if any is, that of greatest value, first on a tie."""
    entries = np.arange(len(run))
    for rank in (preferred, value):
        start = _run_starts(run[entries])
        best = np.maximum.reduceat(rank[entries], start)
        entries = entries[rank[entries] == np.repeat(best, np.diff(start, append=len(entries)))]
    return entries[_run_starts(run[entries])]


def _run_starts(run: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.diff(run, prepend=-1))


def _contains(ordered: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Which keys occur in a sorted array; both are nearly in the same order here, which makes the search quick."""
    if not len(ordered):
        return np.zeros(len(keys), dtype=bool)
    found: np.ndarray = ordered[np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)] == keys
    return found


def _incidence(keys: np.ndarray, num_objects: int, num_classes: int) -> csr_matrix:
    ones = np.ones(len(keys), dtype=np.int64)
    return csr_matrix((ones, (keys // num_classes, keys % num_classes)), (num_objects, num_classes))


def _class_indices(store: AnnotationStore, predictions: PredictionStore) -> np.ndarray:
    """(C,) int64: the store's index of each class of the predictions."""
    index = {name: i for i, name in enumerate(store.label_names)}
    odd = sorted(set(store.label_names) ^ set(predictions.label_names))
    if odd:
        holder, other = (store, predictions) if odd[0] in index else (predictions, store)
        raise AnnotationError(
            f'{predictions.path}: predictions have other classes than {store.path}: {len(odd)} differ, first '
            f'{odd[0]!r}, which is in {holder.path} and not in {other.path}'
        )
    return np.array([index[name] for name in predictions.label_names], dtype=np.int64)


def _image_indices(store: AnnotationStore, predictions: PredictionStore) -> np.ndarray:
    """(images predicted,) int64: the store's index of each image of the predictions."""
    ids = pa.array(predictions.image_ids(), pa.string())
    row = pc.index_in(ids, pa.array(store.image_ids(), pa.string()))
    if row.null_count:
        first = ids.filter(pc.is_null(row))[0].as_py()
        raise AnnotationError(
            f'{predictions.path}: {row.null_count} of the {len(ids)} images predicted are not in {store.path}, first '
            f'{first!r}; give the store of the split that was predicted'
        )
    return row.to_numpy(zero_copy_only=False).astype(np.int64)
