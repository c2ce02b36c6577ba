"""Contact sheets: images with their ground truth, and with what a model finds in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.visualization.outlines import Outline, colour_of, draw_outlines, objects_of, sheet, show_image

SAME_PREDICTION = 0.8
"""IoU from which detections share one drawn box."""


LARGEST = 900
"""Pixels of an image's longer side; drawing more of them takes seconds and shows nothing."""


def draw_annotations(store: AnnotationStore, images: Sequence[int], same_object_iou: float = 0.9) -> Figure:
    """Images with their ground truth: one box an object, all its labels beside it, group-of boxes dashed.

    Args:
        store: Must know its image folder.
        images: Image indices.
        same_object_iou: Boxes that overlap so much are one object.
    """
    figure, axes = sheet(_sizes(store, images), 'Ground truth: one box an object, group-of boxes dashed')
    for image, ax in zip(images, axes):
        show_image(ax, read_image(store, image), store.image_id(image), (1, 1))
        draw_outlines(ax, ground_truth_outlines(store, image, same_object_iou))
    return figure


def draw_predictions(
    store: AnnotationStore, predictions: PredictionStore, images: Sequence[int], score_threshold: float = 0.4
) -> Figure:
    """Images with the detections above a score; detections with (nearly) the same box share one.

    Args:
        store: Of the same split; must know its image folder.
        predictions: What the model found.
        images: Image indices of ``store``.
        score_threshold: In [0, 1].
    """
    row_of = {image_id: row for row, image_id in enumerate(predictions.image_ids())}
    figure, axes = sheet(_sizes(store, images), f'Predictions with a score of at least {score_threshold:g}')
    for image, ax in zip(images, axes):
        show_image(ax, read_image(store, image), store.image_id(image), (1, 1))
        row = row_of.get(store.image_id(image))
        if row is None:
            continue
        start = int(predictions.detection_stop[row - 1]) if row else 0
        rows = np.arange(start, int(predictions.detection_stop[row]))
        rows = rows[predictions.score[rows] >= score_threshold]
        labels = predictions.label[rows]
        texts = [f'{predictions.class_names[k]} {score:.2f}' for k, score in zip(labels, predictions.score[rows])]
        draw_outlines(ax, outlines_of(predictions.box[rows], labels, texts, SAME_PREDICTION))
    return figure


def read_image(store: AnnotationStore, image: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright, no larger than a sheet can show.

    Raises:
        ValueError: The store does not say where its images are.
    """
    if store.image_folder is None:
        raise ValueError(f'{store.path} does not say where its images are')
    with Image.open(Path(store.image_folder) / store.file_name(image)) as picture:
        upright = ImageOps.exif_transpose(picture).convert('RGB')
    upright.thumbnail((LARGEST, LARGEST))
    return np.asarray(upright)


def ground_truth_outlines(store: AnnotationStore, image: int, same_object_iou: float = 0.9) -> list[Outline]:
    """The boxes of an image, in fractions of its size: one an object, with all its labels."""
    rows = np.arange(store.num_boxes)[store.boxes_of_image(image)]
    outlines = []
    for group_of in (False, True):
        chosen = rows[(store.is_group_of[rows] == 1) == group_of]
        texts = [store.class_names[label] for label in store.box_label[chosen]]
        outlines += outlines_of(store.box[chosen], store.box_label[chosen], texts, same_object_iou, dashed=group_of)
    return outlines


def outlines_of(
    box: np.ndarray,
    label: np.ndarray,
    texts: Sequence[str],
    same_object_iou: float,
    dashed: bool = False,
    colour: str | None = None,
) -> list[Outline]:
    """One outline for all boxes on an object.

    Args:
        box: (B, 4).
        label: (B,) class indices; the first of an object gives its colour.
        texts: B lines.
        same_object_iou: Boxes that overlap so much share an outline.
        dashed: Whether they are group-of boxes.
        colour: One for all, instead.
    """
    outlines = []
    for members in objects_of(box, same_object_iou):
        x_min, y_min, x_max, y_max = map(float, box[members[0]])
        shade = colour or colour_of(int(label[members[0]]))
        outlines.append(Outline((x_min, y_min, x_max, y_max), tuple(texts[k] for k in members), shade, dashed))
    return outlines


def _sizes(store: AnnotationStore, images: Sequence[int]) -> list[tuple[int, int]]:
    return [(int(store.width[image]), int(store.height[image])) for image in images]
