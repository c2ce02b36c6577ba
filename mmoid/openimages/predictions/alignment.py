"""Predictions by the image and class indices of a store, whatever their order and spelling."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.image_ids import match_images_once
from mmoid.openimages.predictions.prediction_store import Predictions
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.summary import Summary


def align_predictions(
    predictions: Predictions, store: AnnotationStore, summary: Summary | None = None
) -> tuple[Predictions, np.ndarray]:
    """Predictions with the image ids and class indices of a store.

    Args:
        predictions: Of the same classes, on all or some of the store's images.
        store: The annotations.
        summary: Counts the images that the store does not have, which are left out, and what reading left out.

    Returns:
        The predictions, and (N,) the store's index of each of their images.

    Raises:
        AnnotationError: Predictions of other classes, of none of the store's images, or without a detection on them.
    """
    path, summary = predictions.path, summary or Summary()
    label_of = store.classes.indices(predictions.label_names, str(path))
    missing = np.setdiff1d(np.arange(store.num_classes), label_of)
    if len(missing):
        raise AnnotationError(f'{path}: class {store.label_names[missing[0]]!r} of {store.path} is missing')
    image_of = match_images_once(predictions.ids, pa.array(store.image_ids(), pa.string()), str(path))
    counts = np.diff(predictions.detection_stop, prepend=0)
    kept = image_of >= 0
    if not counts[kept].any():
        raise predictions.without_detections(
            f'has no detection on the images of {store.path}, which has {kept.sum()} of its {len(kept)} images; give '
            'the store of the split that was predicted'
        )
    for reason, count in predictions.left_out.items():
        summary.drop(f'detections {reason}', count)
    for reason, count in predictions.changed.items():
        summary.change(reason, count)
    if not kept.all():
        first = predictions.ids[int(np.argmin(kept))].as_py()
        summary.drop(f'images of {path} that are not in {store.path}', (~kept).sum(), first)
    rows = np.repeat(kept, counts) if not kept.all() else slice(None)  # a copy only where rows are left out
    label = predictions.label[rows]
    image_of = image_of[kept]
    aligned = predictions.replace(
        label_names=store.label_names,
        class_names=store.class_names,
        ids=pa.array(store.image_ids(), pa.string()).take(pa.array(image_of)),
        detection_stop=np.cumsum(counts[kept]),
        label=label if predictions.label_names == store.label_names else label_of[label],
        score=predictions.score[rows],
        box=predictions.box[rows],
        left_out={},
        changed={},
    )
    return aligned, image_of
