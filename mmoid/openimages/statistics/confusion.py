"""Confusion: which labels a model gives to the objects of a class (the ratio of Fig. 3a of the paper, by a model).

If many objects labelled Girl are also detected as Woman, they have both labels implicitly. Rates from annotations
(:mod:`mmoid.openimages.statistics.concurrent_rates`) count only objects annotated with both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.statistics.concurrent_rates import most_frequent_pairs, rates_of
from mmoid.openimages.statistics.objects import object_of_box, overlapping_pairs
from mmoid.openimages.store.annotation_store import AnnotationStore


@dataclass(frozen=True)
class Confusion:
    """Counts of labels annotated and labels predicted on the same objects.

    Attributes:
        objects: (C,) int64, objects labelled i, on the images that were predicted.
        predicted: (C, C) int64, objects labelled i on which j is predicted.
        confused: (C, C) int64, those whose annotation does not support j: j is neither a label of the object nor, with
            the hierarchy, an ancestor of one. A finer label is not supported (Fig. 3b). The diagonal is 0.
    """

    objects: np.ndarray
    predicted: np.ndarray
    confused: np.ndarray

    @property
    def rates(self) -> np.ndarray:
        """(C, C) float32 in [0, 1]: c_ij, the share of the objects labelled i that the model confuses with j."""
        return rates_of(self.confused, self.objects)

    @property
    def concurrent_rates(self) -> np.ndarray:
        """(C, C) float32 in [0, 1]: the share of the objects labelled i on which j is predicted; diagonal 0."""
        rates = rates_of(self.predicted, self.objects)
        np.fill_diagonal(rates, 0)
        return rates

    def top_pairs(self, count: int) -> list[tuple[int, int, int]]:
        """The ``count`` most frequent confusions as (labelled i, predicted j, objects), most frequent first."""
        return most_frequent_pairs(self.confused, count)


def count_confusion(
    store: AnnotationStore,
    predictions: PredictionStore,
    *,
    score_threshold: float = 0.5,
    match_iou: float = 0.5,
    same_object_iou: float = 0.9,
    respect_hierarchy: bool = True,
) -> Confusion:
    """Counts what a model predicts on each annotated object.

    Objects are those of :mod:`mmoid.openimages.statistics.objects`. A detection is assigned to at most one object of
    its image with a box that it overlaps with IoU >= ``match_iou``: to one whose labels support it if possible (a Man
    in front of a Woman is found, not confused), then to the one with the greatest IoU, then to the first row.

    Args:
        store: The annotations.
        predictions: Of the same classes, on all or some of the store's images; objects of other images do not count.
        score_threshold: Minimum score of a detection.
        match_iou: Minimum IoU of a detection and a box of the object.
        same_object_iou: Boxes with at least this IoU are on one object.
        respect_hierarchy: Ancestors of a label also support a detection.

    Raises:
        AnnotationError: Predictions of other classes, or of images that the store does not hold.
        ValueError: A threshold out of range.
    """
    num_classes = store.num_classes
    class_of, image_of = _class_indices(store, predictions), _image_indices(store, predictions)
    object_index = object_of_box(store.box, store.box_stop, store.is_group_of, same_object_iou)
    boxes_of_image = np.diff(store.box_stop, prepend=0)
    was_predicted = np.zeros(store.num_images, dtype=bool)
    was_predicted[image_of] = True
    single = (object_index >= 0) & np.repeat(was_predicted, boxes_of_image)

    # (object, class) as one number, object * C + class.
    annotated = np.unique(object_index[single] * num_classes + store.box_label[single])
    supported = annotated
    if respect_hierarchy:
        rows, labels = store.hierarchy.expand_up(annotated % num_classes)
        supported = np.unique(annotated[rows] // num_classes * num_classes + labels)

    detections = np.flatnonzero(predictions.score >= score_threshold)
    image = image_of[predictions.image_of_detection()[detections]]
    count = boxes_of_image[image]
    detection, box, iou = overlapping_pairs(
        predictions.box[detections], store.box, store.box_stop[image] - count, count, match_iou
    )
    kept = single[box]
    detection, box, iou = detection[kept], box[kept], iou[kept]
    said = object_index[box] * num_classes + class_of[predictions.label[detections[detection]]]
    best_first = np.lexsort([-iou, ~np.isin(said, supported), detection])
    said = np.unique(said[best_first[np.unique(detection[best_first], return_index=True)[1]]])

    num_objects = int(object_index.max(initial=-1)) + 1
    labelled = _incidence(annotated, num_objects, num_classes)
    predicted = labelled.T @ _incidence(said, num_objects, num_classes)
    confused = labelled.T @ _incidence(said[~np.isin(said, supported)], num_objects, num_classes)
    objects = np.bincount(annotated % num_classes, minlength=num_classes)
    return Confusion(objects=objects, predicted=predicted.toarray(), confused=confused.toarray())


def _incidence(keys: np.ndarray, num_objects: int, num_classes: int) -> csr_matrix:
    ones = np.ones(len(keys), dtype=np.int64)
    return csr_matrix((ones, (keys // num_classes, keys % num_classes)), (num_objects, num_classes))


def _class_indices(store: AnnotationStore, predictions: PredictionStore) -> np.ndarray:
    """(C,) int64: the store's index of each class of the predictions."""
    missing = sorted(set(store.label_names) - set(predictions.label_names))
    if missing:
        raise AnnotationError(f'{predictions.path}: class {missing[0]!r} of {store.path} is missing')
    return store.classes.indices(predictions.label_names, str(predictions.path))


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
