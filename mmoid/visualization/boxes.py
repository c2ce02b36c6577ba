"""Contact sheets: pictures with their ground truth, and with what a model finds in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps

from mmoid.openimages.objects import group_boxes, same_object_pairs
from mmoid.openimages.predictions import PredictionStore
from mmoid.openimages.store import AnnotationStore

SINGLE, GROUP, FOUND = '#00a0ff', '#ff9000', '#30c030'


def draw_annotations(store: AnnotationStore, images: Sequence[int], same_object_iou: float = 0.9) -> Figure:
    """Pictures with their ground truth: one box an object, all its labels beside it, group-of boxes in orange.

    Args:
        store: Must know its image folder.
        images: Image indices.
        same_object_iou: Boxes that overlap so much are one object.
    """
    figure, axes = _sheet(len(images))
    for image, ax in zip(images, axes):
        _show_picture(ax, store, image)
        _draw_ground_truth(ax, store, image, same_object_iou)
    figure.suptitle('Ground truth: label sets (blue), group-of boxes (orange)')
    return figure


def draw_predictions(
    store: AnnotationStore, predictions: PredictionStore, images: Sequence[int], score_threshold: float = 0.4
) -> Figure:
    """Pictures with the detections above a score; detections with (nearly) the same box share one.

    Args:
        store: Of the same split; must know its image folder.
        predictions: What the model found.
        images: Image indices of ``store``.
        score_threshold: In [0, 1].
    """
    row_of = {image_id: row for row, image_id in enumerate(predictions.image_ids())}
    figure, axes = _sheet(len(images))
    for image, ax in zip(images, axes):
        _show_picture(ax, store, image)
        row = row_of.get(store.image_id(image))
        if row is None:
            continue
        start = int(predictions.detection_stop[row - 1]) if row else 0
        rows = np.arange(start, int(predictions.detection_stop[row]))
        rows = rows[predictions.score[rows] >= score_threshold]
        texts = [f'{predictions.class_names[predictions.label[k]]} {predictions.score[k]:.2f}' for k in rows]
        _draw_objects(ax, predictions.box[rows], texts, 0.8, FOUND)
    figure.suptitle(f'Predictions with a score of at least {score_threshold:g}')
    return figure


def _sheet(count: int, columns: int = 4) -> tuple[Figure, np.ndarray]:
    rows = max(1, math.ceil(count / columns))
    figure = Figure(figsize=(4 * columns, 3.6 * rows), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    return figure, axes


def _show_picture(ax: Axes, store: AnnotationStore, image: int) -> None:
    if store.image_folder is None:
        raise ValueError(f'{store.path} does not say where its images are')
    with Image.open(Path(store.image_folder) / store.file_name(image)) as picture:
        # Fractions as coordinates: boxes need no size then.
        ax.imshow(ImageOps.exif_transpose(picture).convert('RGB'), extent=(0, 1, 1, 0))
    ax.set_aspect(store.height[image] / store.width[image])
    ax.set_title(store.image_id(image), fontsize=7)


def _draw_ground_truth(ax: Axes, store: AnnotationStore, image: int, same_object_iou: float) -> None:
    rows = np.arange(store.num_boxes)[store.boxes_of_image(image)]
    for group_of, colour in ((False, SINGLE), (True, GROUP)):
        chosen = rows[(store.is_group_of[rows] == 1) == group_of]
        texts = [store.class_names[store.box_label[k]] for k in chosen]
        _draw_objects(ax, store.box[chosen], texts, same_object_iou, colour)


def _draw_objects(ax: Axes, box: np.ndarray, texts: Sequence[str], same_iou: float, colour: str) -> None:
    first, second = same_object_pairs(box, np.array([len(box)]), same_iou)
    objects = group_boxes(len(box), first, second)
    for index in range(int(objects.max(initial=-1)) + 1):
        members = np.flatnonzero(objects == index)
        x_min, y_min, x_max, y_max = box[members[0]]
        ax.add_patch(Rectangle((x_min, y_min), x_max - x_min, y_max - y_min, fill=False, edgecolor=colour, lw=1.4))
        ax.text(
            x_min, y_min, '\n'.join(texts[k] for k in members), fontsize=6, color='white', va='bottom',
            bbox={'facecolor': colour, 'edgecolor': 'none', 'pad': 0.8, 'alpha': 0.8}, clip_on=True,
        )  # fmt: skip
