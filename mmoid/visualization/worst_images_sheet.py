"""Ground truth and predictions side by side, for one class: what was found, missed and wrongly detected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmoid.openimages.boxes import box_area, intersection_area
from mmoid.openimages.metric.ground_truth import GroundTruth
from mmoid.openimages.metric.worst_images import Verdict, judge
from mmoid.openimages.predictions.prediction_store import Predictions
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.visualization.label_sets import (
    GREY,
    SAME_OBJECT,
    Canvas,
    ImageReader,
    detections,
    draw_detections,
    objects_of,
    sheet,
)

GREEN, RED = '#1a8a3c', '#c62828'
VERDICTS = {Verdict.TRUE: (GREEN, ''), Verdict.FALSE: (RED, ' false'), Verdict.NOT_COUNTED: (GREY, ' not counted')}
MAX_OTHERS = 8
"""Boxes of other classes that are drawn on an image."""


def draw_mistakes(
    read: ImageReader,
    ground_truth: GroundTruth,
    predictions: Predictions,
    label: int,
    images: Sequence[int],
    title: str,
    score_threshold: float = 0.3,
    iou_threshold: float = 0.5,
) -> Figure:
    """Draws pairs of images, ground truth on the left and predictions on the right.

    Found objects and true detections are green, missed objects and false detections red. Detections that do not count
    are grey, boxes of other classes thin and grey. Group-of boxes are dashed.

    Args:
        read: Reader of the evaluated split.
        ground_truth: Built from it by the rules of a protocol.
        predictions: With its image ids and class indices (:func:`align_predictions`).
        label: Class index.
        images: Image indices, two pairs per row.
        title: Above all images.
        score_threshold: Detections with a lower score are left out.
        iou_threshold: As of the metric.
    """
    store = read.store
    figure, axes = sheet(2 * len(images), title)
    row_of = {image_id: row for row, image_id in enumerate(predictions.image_ids())}
    for image, left, right in zip(images, axes[::2], axes[1::2]):
        pixels = read(image)
        rows = detections(predictions, row_of.get(store.image_id(image)), score_threshold)
        is_ours = predictions.label[rows] == label
        ours, others = rows[is_ours], rows[~is_ours][:MAX_OTHERS]
        box, score = predictions.box[ours], predictions.score[ours]
        verdict, found = judge(ground_truth, image, label, score, box, iou_threshold)

        counts = [int((verdict == kind).sum()) for kind in (Verdict.TRUE, Verdict.FALSE)]
        canvas = Canvas(right, pixels, f'predictions   {counts[0]} true, {counts[1]} false')
        for corners, kind, value in zip(box, verdict, score):
            colour, note = VERDICTS[Verdict(kind)]
            canvas.draw_box(corners, [f'{value:.2f}{note}'], colour)
        draw_detections(canvas, store, predictions, others, GREY)
        canvas.write_labels()

        absorbed = box[verdict == Verdict.NOT_COUNTED]
        _draw_truth(left, pixels, store, ground_truth, image, label, found, absorbed)
    return figure


def _draw_truth(
    ax: Axes,
    pixels: np.ndarray,
    store: AnnotationStore,
    truth: GroundTruth,
    image: int,
    label: int,
    found: np.ndarray,
    absorbed: np.ndarray,
) -> None:
    """Draws the ground truth; ``found`` are its rows, ``absorbed`` (A, 4) detections that may be in a group."""
    rows = np.flatnonzero((truth.image == image) & (truth.label == label))
    is_found = np.where(truth.is_group_of[rows], _holds_some(truth.box[rows], absorbed), np.isin(rows, found))
    verified = truth.verified is None or np.isin(image * truth.num_classes + label, truth.verified)
    note = f'{is_found.sum()} of {len(rows)} found' if verified else 'class not verified here'
    canvas = Canvas(ax, pixels, f'{store.image_id(image)}   {note}')
    for row, corners, ok in zip(rows, truth.box[rows], is_found):
        annotated = store.box_label[truth.source[row]]  # a descendant, where the ground truth was expanded
        words = [] if annotated == label else [store.class_names[annotated]]
        words += [] if ok else ['missed']
        canvas.draw_box(corners, words, GREEN if ok else RED, truth.is_group_of[row])
    all_rows = np.arange(store.num_boxes)[store.boxes_of_image(image)]
    others = np.setdiff1d(all_rows, truth.source[rows])[:MAX_OTHERS]
    for members in objects_of(store.box[others], SAME_OBJECT):
        names = [store.class_names[k] for k in dict.fromkeys(store.box_label[others[members]].tolist())]
        canvas.draw_box(store.box[others[members[0]]], names, GREY, line_width=0.8)
    canvas.write_labels()


def _holds_some(group: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(G,) bool: group-of boxes that contain at least half of the area of one of the (B, 4) detections."""
    held: np.ndarray = intersection_area(group[:, None], box[None]) >= 0.5 * box_area(box)
    return np.any(held, axis=1)
