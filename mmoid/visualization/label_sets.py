"""Images with boxes: annotations, predictions, and what a stage feeds. One box per object, with all its labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.statistics.objects import object_of_box
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.visualization.figures import plain

# Dark enough for white letters.
COLOURS = ('#0072b2', '#c43c00', '#00806a', '#a3338c', '#8a6d00', '#3f51b5', '#b3003c', '#4d7a00', '#6a4fa3', '#00708f')
GREY = '#777777'
SAME_OBJECT = 0.9
SAME_PREDICTION = 0.8
"""Detections with at least this IoU share one drawn box."""

MAX_SIDE = 900
"""Pixels of a drawn image's longer side."""

WIDTH, HEIGHT = 4.6, 3.45
"""Inches of an image's place on a sheet."""

FONT_SIZE = 6.5
LINE_HEIGHT = 1.3 * FONT_SIZE / 72
"""Inches of one line of a label."""


@dataclass(frozen=True, eq=False)
class TrainingItem:
    """One image of a training batch.

    Attributes:
        title: One line.
        image: (H, W, 3) uint8 RGB, before normalisation and padding.
        box: (B, 4) xmin, ymin, xmax, ymax in pixels.
        label: (B,) class indices, as annotated.
        label_set: (B, C) bool, the labels that a proposal on the box learns.
        group_of: (B,) bool.
        ignored: (B,) bool; proposals on these boxes are neither objects nor background.
    """

    title: str
    image: np.ndarray
    box: np.ndarray
    label: np.ndarray
    label_set: np.ndarray
    group_of: np.ndarray
    ignored: np.ndarray


def draw_annotations(store: AnnotationStore, images: Sequence[int], same_object_iou: float = SAME_OBJECT) -> Figure:
    """Images with their annotations; group-of boxes are dashed.

    Args:
        store: Must know its image folder.
        images: Image indices.
        same_object_iou: Boxes with at least this IoU are one object.
    """
    figure, axes = sheet(len(images), 'Ground truth: one box per object, group-of boxes dashed')
    for image, ax in zip(images, axes):
        pixels = read_image(store, image)
        show_image(ax, pixels, store.image_id(image))
        rows = np.arange(store.num_boxes)[store.boxes_of_image(image)]
        for dashed in (False, True):
            chosen = rows[(store.is_group_of[rows] == 1) == dashed]
            texts = [store.class_names[label] for label in store.box_label[chosen]]
            box = in_pixels(store.box[chosen], pixels)
            draw_objects(ax, box, store.box_label[chosen], texts, same_object_iou, dashed=dashed)
    return figure


def draw_predictions(
    store: AnnotationStore, predictions: PredictionStore, images: Sequence[int], score_threshold: float = 0.4
) -> Figure:
    """Images with their detections; detections with (nearly) the same box share one.

    Args:
        store: Of the same split; must know its image folder.
        predictions: The detections.
        images: Image indices of ``store``.
        score_threshold: Lower scores are not drawn; in [0, 1].
    """
    row_of = {image_id: row for row, image_id in enumerate(predictions.image_ids())}
    figure, axes = sheet(len(images), f'Predictions with a score of at least {score_threshold:g}')
    for image, ax in zip(images, axes):
        pixels = read_image(store, image)
        show_image(ax, pixels, store.image_id(image))
        rows = detections(predictions, row_of.get(store.image_id(image)), score_threshold)
        box, texts = in_pixels(predictions.box[rows], pixels), texts_of(predictions, rows)
        draw_objects(ax, box, predictions.label[rows], texts, SAME_PREDICTION)
    return figure


def draw_training_items(
    items: Sequence[TrainingItem], class_names: Sequence[str], title: str, same_object_iou: float = SAME_OBJECT
) -> Figure:
    """Images as the model gets them: annotated labels first, then the ancestors that the hierarchy adds (↑).

    Args:
        items: The images.
        class_names: C names.
        title: Above all images.
        same_object_iou: As of the RoI sampler.
    """
    figure, axes = sheet(len(items), f'{title}   —   ↑ ancestor, dashed: group-of, grey: ignored', columns=3)
    for item, ax in zip(items, axes):
        show_image(ax, item.image, item.title)
        learned = np.flatnonzero(~item.ignored)
        for members in objects_of(item.box[learned], same_object_iou):
            rows = learned[members]
            annotated = list(dict.fromkeys(item.label[rows].tolist()))
            added = set(np.flatnonzero(item.label_set[rows].any(axis=0)).tolist()) - set(annotated)
            lines = [class_names[k] for k in annotated] + [f'↑ {class_names[k]}' for k in sorted(added)]
            draw_box(ax, item.box[rows[0]], lines, colour_of(annotated[0]), item.group_of[rows].any())
        for row in np.flatnonzero(item.ignored):
            draw_box(ax, item.box[row], [f'{class_names[item.label[row]]}, ignored'], GREY, item.group_of[row])
    return figure


def detections(predictions: PredictionStore, row: int | None, score_threshold: float) -> np.ndarray:
    """Rows of the detections of an image, best score first; none without an image."""
    if row is None:
        return np.empty(0, dtype=np.int64)
    start = int(predictions.detection_stop[row - 1]) if row else 0
    rows = np.arange(start, int(predictions.detection_stop[row]))
    rows = rows[predictions.score[rows] >= score_threshold]
    return rows[np.argsort(-predictions.score[rows], kind='stable')]


def texts_of(predictions: PredictionStore, rows: np.ndarray) -> list[str]:
    """Class and score of each detection."""
    return [f'{predictions.class_names[predictions.label[k]]} {predictions.score[k]:.2f}' for k in rows]


def read_image(store: AnnotationStore, image: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB as stored (boxes fit the stored pixels), at most :data:`MAX_SIDE` pixels long.

    Raises:
        ValueError: The store has no image folder.
    """
    if store.image_folder is None:
        raise ValueError(f'{store.path} has no image folder')
    with Image.open(Path(store.image_folder) / store.file_name(image)) as file:
        pixels = file.convert('RGB')
    pixels.thumbnail((MAX_SIDE, MAX_SIDE))
    return np.asarray(pixels)


def in_pixels(box: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(B, 4) boxes as fractions of an image (H, W, 3), in its pixels."""
    height, width = image.shape[:2]
    return box * np.array([width, height, width, height])


def colour_of(label: int) -> str:
    """The colour of a class."""
    return COLOURS[label % len(COLOURS)]


def objects_of(box: np.ndarray, same_object_iou: float) -> list[np.ndarray]:
    """Rows of the (B, 4) boxes on each object, in the order of first rows."""
    objects = object_of_box(np.asarray(box, np.float64), np.array([len(box)]), np.zeros(len(box)), same_object_iou)
    return [np.flatnonzero(objects == index) for index in range(int(objects.max(initial=-1)) + 1)]


def sheet(count: int, title: str, columns: int = 4) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` axes for images."""
    columns = max(1, min(columns, count))
    rows = max(1, math.ceil(count / columns))
    figure = Figure(figsize=(columns * WIDTH, rows * (HEIGHT + 0.3) + 0.3), layout='constrained')
    figure.suptitle(title, x=0, ha='left', fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax in axes:
        ax.set_axis_off()
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def show_image(ax: Axes, image: np.ndarray, title: str) -> None:
    """Shows an image (H, W, 3) uint8 RGB; boxes drawn on it are in pixels."""
    height, width = image.shape[:2]
    ax.imshow(image, extent=(0, width, height, 0))
    ax.set_title(title, fontsize=7, loc='left', pad=3)


def draw_objects(
    ax: Axes,
    box: np.ndarray,
    label: np.ndarray,
    texts: Sequence[str],
    same_object_iou: float,
    dashed: bool = False,
) -> None:
    """Draws one box per object, in the colour of its first label.

    Args:
        ax: Of :func:`show_image`.
        box: (B, 4) in pixels.
        label: (B,) class indices.
        texts: B lines.
        same_object_iou: Boxes with at least this IoU are one object.
        dashed: For group-of boxes.
    """
    for rows in objects_of(box, same_object_iou):
        draw_box(ax, box[rows[0]], [texts[k] for k in rows], colour_of(int(label[rows[0]])), dashed)


def draw_box(
    ax: Axes, box: np.ndarray, lines: Sequence[str], colour: str, dashed: bool = False, line_width: float = 1.6
) -> None:
    """Draws a box and, above it, below it or in it (where there is room), its labels.

    Args:
        ax: Of :func:`show_image`.
        box: (4,) in pixels.
        lines: Labels, one below the other; may be empty.
        colour: Of the box, and behind the labels.
        dashed: For group-of boxes.
        line_width: Of the box, in points.
    """
    x_min, y_min, x_max, y_max = map(float, box)
    size = (x_max - x_min, y_max - y_min)
    style = 'dashed' if dashed else 'solid'
    ax.add_patch(Rectangle((x_min, y_min), *size, fill=False, edgecolor=colour, lw=line_width, ls=style))
    if not lines:
        return
    width, height = ax.get_xlim()[1], ax.get_ylim()[0]
    needed = len(lines) * LINE_HEIGHT * max(width / WIDTH, height / HEIGHT)  # pixels
    if y_min >= needed:
        y, side = y_min, 'bottom'
    elif y_max + needed <= height:
        y, side = y_max, 'top'
    else:
        y, side = max(y_min, 0), 'top'
    is_left = x_min + x_max <= width
    ax.text(
        max(x_min, 0) if is_left else min(x_max, width),
        y,
        '\n'.join(map(plain, lines)),
        ha='left' if is_left else 'right',
        va=side,
        fontsize=FONT_SIZE,
        color='white',
        linespacing=1.1,
        clip_on=True,
        bbox={'facecolor': colour, 'edgecolor': 'none', 'boxstyle': 'square,pad=0.15', 'alpha': 0.85},
    )
