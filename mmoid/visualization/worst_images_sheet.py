"""Ground truth and predictions side by side, for one class: what was found, missed and made up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmoid.openimages.metric.ground_truth import GroundTruth
from mmoid.openimages.metric.worst_images import Verdict, judge
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.visualization.boxes import SAME_PREDICTION, outlines_of, read_image
from mmoid.visualization.outlines import FALSE, FOUND, GREY, MISSED, Outline, draw_outlines, sheet, show_image

MOST_OTHERS = 8
"""Detections of other classes that are shown in an image, the best scored."""

SAYS = {Verdict.TRUE: (FOUND, ''), Verdict.FALSE: (FALSE, ' false'), Verdict.NOT_COUNTED: (GREY, ' not counted')}


def draw_mistakes(
    store: AnnotationStore,
    ground_truth: GroundTruth,
    predictions: PredictionStore,
    label: int,
    images: Sequence[int],
    title: str,
    score_threshold: float = 0.3,
    iou_threshold: float = 0.5,
) -> Figure:
    """Draws pairs of images, ground truth to the left and predictions to the right.

    Of the class: found and missed objects in green and red; true and false detections in green and red, those that do
    not count in grey. Everything else thin and grey. Group-of boxes are dashed.

    Args:
        store: Of the evaluated split; must know its image folder.
        ground_truth: Made of it by the rules of a protocol.
        predictions: Of the store's classes.
        label: Class index.
        images: Image indices, two pairs a row.
        title: One line above all.
        score_threshold: Detections below it are taken for not there.
        iou_threshold: As of the metric.
    """
    sizes = [(int(store.width[image]), int(store.height[image])) for image in images for _ in range(2)]
    figure, axes = sheet(sizes, title)
    row_of = {image_id: row for row, image_id in enumerate(predictions.image_ids())}
    for index, image in enumerate(images):
        left, right = axes[2 * index : 2 * index + 2]
        rows = _rows(predictions, row_of.get(store.image_id(image)))
        rows = rows[predictions.score[rows] >= score_threshold]
        is_ours = predictions.label[rows] == label
        ours, others = rows[is_ours], rows[~is_ours]
        scores, boxes = predictions.score[ours], predictions.box[ours]
        verdict, found = judge(ground_truth, image, label, scores, boxes, iou_threshold)
        picture = read_image(store, image)
        _draw_truth(left, picture, store, ground_truth, image, label, found, boxes[verdict == Verdict.NOT_COUNTED])
        _draw_found(right, picture, predictions, ours, verdict, others[:MOST_OTHERS])
    return figure


def _rows(predictions: PredictionStore, row: int | None) -> np.ndarray:
    """Detections of an image, best score first."""
    if row is None:
        return np.empty(0, dtype=np.int64)
    start = int(predictions.detection_stop[row - 1]) if row else 0
    rows = np.arange(start, int(predictions.detection_stop[row]))
    return rows[np.argsort(-predictions.score[rows], kind='stable')]


def _draw_truth(
    ax: Axes,
    picture: np.ndarray,
    store: AnnotationStore,
    truth: GroundTruth,
    image: int,
    label: int,
    found: np.ndarray,
    absorbed: np.ndarray,
) -> None:
    rows = np.flatnonzero((truth.image == image) & (truth.label == label))
    is_found = np.where(truth.is_group_of[rows], _covers(truth.box[rows], absorbed), np.isin(rows, found))
    wanted, hit = len(rows), int(is_found.sum())
    verified = truth.verified is None or np.isin(image * truth.num_classes + label, truth.verified)
    note = f'{hit} of {wanted} found' if verified else 'nobody verified the class here'
    show_image(ax, picture, f'{store.image_id(image)}   {note}', (1, 1))
    outlines = _others_of(store, image, set(truth.source[rows].tolist()))
    for row, ok in zip(rows, is_found):
        name = store.class_names[store.box_label[truth.source[row]]]  # of a descendant, where it was expanded
        x_min, y_min, x_max, y_max = map(float, truth.box[row])
        words = [] if name == store.class_names[label] else [name]  # the title names the class
        words += [] if ok else ['missed']
        lines = (', '.join(words),) if words else ()
        colour = FOUND if ok else MISSED
        outlines.append(Outline((x_min, y_min, x_max, y_max), lines, colour, bool(truth.is_group_of[row])))
    draw_outlines(ax, outlines)


def _others_of(store: AnnotationStore, image: int, shown: set[int]) -> list[Outline]:
    """Boxes of other classes, where they are few enough to be read."""
    rows = np.arange(store.num_boxes)[store.boxes_of_image(image)]
    rows = np.array([row for row in rows if row not in shown][:MOST_OTHERS], dtype=np.int64)
    texts = [store.class_names[label] for label in store.box_label[rows]]
    thin = outlines_of(store.box[rows], store.box_label[rows], texts, 0.9, colour=GREY)
    return [Outline(item.box, item.lines, GREY, item.dashed, 0.5) for item in thin]


def _draw_found(
    ax: Axes,
    picture: np.ndarray,
    predictions: PredictionStore,
    rows: np.ndarray,
    verdict: np.ndarray,
    others: np.ndarray,
) -> None:
    counts = ', '.join(
        f'{(verdict == kind).sum()} {name}' for kind, name in ((Verdict.TRUE, 'true'), (Verdict.FALSE, 'false'))
    )
    show_image(ax, picture, f'predictions   {counts}', (1, 1))
    outlines = []
    if len(others):
        texts = [f'{predictions.class_names[predictions.label[k]]} {predictions.score[k]:.2f}' for k in others]
        found = outlines_of(predictions.box[others], predictions.label[others], texts, SAME_PREDICTION, colour=GREY)
        outlines = [Outline(item.box, item.lines, GREY, False, 0.5) for item in found]
    for row, kind in zip(rows, verdict):
        colour, says = SAYS[Verdict(kind)]
        x_min, y_min, x_max, y_max = map(float, predictions.box[row])
        outlines.append(Outline((x_min, y_min, x_max, y_max), (f'{predictions.score[row]:.2f}{says}',), colour))
    draw_outlines(ax, outlines)


def _covers(group: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(G,) bool: which groups hold at least half of some detection's area, by which a group is found."""
    if not len(box):
        return np.zeros(len(group), dtype=bool)
    low = np.maximum(group[:, None, :2], box[None, :, :2])
    high = np.minimum(group[:, None, 2:], box[None, :, 2:])
    inside = np.maximum(high - low, 0).prod(axis=2)
    area = (box[:, 2:] - box[:, :2]).prod(axis=1)
    held: np.ndarray = (inside >= 0.5 * area).any(axis=1)
    return held
