"""Images with boxes: annotations, predictions, and what a stage feeds. One box per object, with all its labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from PIL import Image

from mmoid.openimages.boxes import intersection_area
from mmoid.openimages.predictions.prediction_store import Predictions
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

FONT = FontProperties(size=FONT_SIZE)


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
    read = ImageReader(store)
    for image, ax in zip(images, axes):
        canvas = Canvas(ax, read(image), store.image_id(image))
        rows = np.arange(store.num_boxes)[store.boxes_of_image(image)]
        for dashed in (False, True):
            chosen = rows[(store.is_group_of[rows] == 1) == dashed]
            for members in objects_of(store.box[chosen], same_object_iou):
                labels = store.box_label[chosen[members]]
                lines = [store.class_names[label] for label in dict.fromkeys(labels.tolist())]
                canvas.draw_box(store.box[chosen[members[0]]], lines, colour_of(int(labels[0])), dashed)
        canvas.write_labels()
    return figure


def draw_predictions(
    store: AnnotationStore, predictions: Predictions, images: Sequence[int], score_threshold: float = 0.4
) -> Figure:
    """Images with their detections; detections with (nearly) the same box share one.

    Args:
        store: Of the same split; must know its image folder.
        predictions: With its image ids and class indices (:func:`align_predictions`).
        images: Image indices of ``store``.
        score_threshold: Lower scores are not drawn; in [0, 1].
    """
    row_of = {image_id: row for row, image_id in enumerate(predictions.image_ids())}
    title = f'Predictions with a score of at least {score_threshold:g}   —   ↑ ancestors'
    figure, axes = sheet(len(images), title)
    read = ImageReader(store)
    for image, ax in zip(images, axes):
        canvas = Canvas(ax, read(image), store.image_id(image))
        rows = detections(predictions, row_of.get(store.image_id(image)), score_threshold)
        draw_detections(canvas, store, predictions, rows)
        canvas.write_labels()
    return figure


def draw_detections(
    canvas: Canvas, store: AnnotationStore, predictions: Predictions, rows: np.ndarray, colour: str | None = None
) -> None:
    """Draws one box for detections with (nearly) the same box, with their labels; ancestors of others are folded.

    Args:
        canvas: The image.
        store: The classes and their hierarchy.
        predictions: Of the store's classes.
        rows: (R,) rows of the detections, best score first.
        colour: Of the boxes, thin then; None: that of the class.
    """
    for members in objects_of(predictions.box[rows], SAME_PREDICTION):
        lines, first = label_lines(store, predictions.label[rows[members]], predictions.score[rows[members]])
        width = 1.6 if colour is None else 0.8
        canvas.draw_box(predictions.box[rows[members[0]]], lines, colour or colour_of(first), line_width=width)


def label_lines(store: AnnotationStore, label: np.ndarray, score: np.ndarray) -> tuple[list[str], int]:
    """The lines of detections on one object: each class once, with its score, and one line of ancestors without.

    Args:
        store: The classes and their hierarchy.
        label: (D,) class indices, best score first.
        score: (D,) scores.

    Returns:
        The lines, and the class of the first.

    Example: ``['Apple 0.92', '↑ Fruit, Food']``
    """
    best = {int(k): float(value) for k, value in zip(label[::-1], score[::-1])}
    above = {int(k) for k in best if store.hierarchy.ancestor_matrix[list(best), k].any()}
    own = sorted(best.keys() - above, key=lambda k: -best[k])
    lines = [f'{store.class_names[k]} {best[k]:.2f}' for k in own]
    names = [store.class_names[k] for k in best if k in above]
    return lines + ([f'↑ {", ".join(names)}'] if names else []), own[0]


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
        canvas = Canvas(ax, item.image, item.title)
        size = np.tile(item.image.shape[1::-1], 2)
        learned = np.flatnonzero(~item.ignored)
        for members in objects_of(item.box[learned], same_object_iou):
            rows = learned[members]
            annotated = list(dict.fromkeys(item.label[rows].tolist()))
            added = set(np.flatnonzero(item.label_set[rows].any(axis=0)).tolist()) - set(annotated)
            lines = [class_names[k] for k in annotated] + [f'↑ {class_names[k]}' for k in sorted(added)]
            canvas.draw_box(item.box[rows[0]] / size, lines, colour_of(annotated[0]), item.group_of[rows].any())
        for row in np.flatnonzero(item.ignored):
            lines = [f'{class_names[item.label[row]]}, ignored']
            canvas.draw_box(item.box[row] / size, lines, GREY, item.group_of[row])
        canvas.write_labels()
    return figure


def detections(predictions: Predictions, row: int | None, score_threshold: float) -> np.ndarray:
    """Rows of the detections of an image, best score first; none without an image."""
    if row is None:
        return np.empty(0, dtype=np.int64)
    start = int(predictions.detection_stop[row - 1]) if row else 0
    rows = np.arange(start, int(predictions.detection_stop[row]))
    rows = rows[predictions.score[rows] >= score_threshold]
    return rows[np.argsort(-predictions.score[rows], kind='stable')]


class ImageReader:
    """Reads a store's images as stored, which is what boxes fit; at most :data:`MAX_SIDE` pixels long.

    Args:
        store: Must know its image folder.

    Attributes:
        unreadable: The reason by file, for images that could not be read; they are drawn grey.

    Raises:
        ValueError: The store has no image folder.
    """

    def __init__(self, store: AnnotationStore) -> None:
        if store.image_folder is None:
            raise ValueError(f'{store.path} has no image folder; prepare it again with --images')
        self.store, self.folder = store, Path(store.image_folder)
        self.unreadable: dict[str, str] = {}

    def __call__(self, image: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        path = self.folder / self.store.file_name(image)
        try:
            with Image.open(path) as file:
                pixels = file.convert('RGB')
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            self.unreadable[str(path)] = str(getattr(error, 'strerror', None) or error)
            pixels = Image.new('RGB', (int(self.store.width[image]), int(self.store.height[image])), '#cccccc')
        pixels.thumbnail((MAX_SIDE, MAX_SIDE))
        return np.asarray(pixels)


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


class Canvas:
    """An image on a sheet. Boxes are drawn at once, their labels at the end, where they cover no other label.

    Args:
        ax: Place on a :func:`sheet`.
        image: (H, W, 3) uint8 RGB.
        title: One line above it.
    """

    def __init__(self, ax: Axes, image: np.ndarray, title: str) -> None:
        self.ax, self.title = ax, title
        self.height, self.width = image.shape[:2]
        ax.imshow(image, extent=(0, self.width, self.height, 0))
        ax.set_title(plain(title), fontsize=7, loc='left', pad=3)
        self._labels: list[tuple[np.ndarray, Sequence[str], str]] = []

    def draw_box(
        self, box: np.ndarray, lines: Sequence[str], colour: str, dashed: bool = False, line_width: float = 1.6
    ) -> None:
        """Draws a box and keeps its labels for :meth:`write_labels`.

        Args:
            box: (4,) as fractions of the image size.
            lines: Labels, one below the other; may be empty.
            colour: Of the box, and behind the labels.
            dashed: For group-of boxes.
            line_width: Of the box, in points.
        """
        x_min, y_min, x_max, y_max = corners = box * np.tile([self.width, self.height], 2)
        style = 'dashed' if dashed else 'solid'
        size = (x_max - x_min, y_max - y_min)
        self.ax.add_patch(Rectangle((x_min, y_min), *size, fill=False, edgecolor=colour, lw=line_width, ls=style))
        if lines:
            self._labels.append((corners, lines, colour))

    def write_labels(self) -> None:
        """Writes the labels at their boxes, or beside with a line to the box; the title counts those without room."""
        pixels = max(self.width / WIDTH, self.height / HEIGHT)  # of the image, per inch of the sheet
        taken = np.empty((0, 4))
        left_out = 0
        for box, lines, colour in self._labels:
            width = max(TextPath((0, 0), plain(line) or ' ', prop=FONT).get_extents().width for line in lines)
            size = np.array([1.05 * width / 72 + 0.06, len(lines) * LINE_HEIGHT + 0.03]) * pixels
            places = self._places(box, size)
            free = np.flatnonzero(~(intersection_area(places[:, None], taken[None]) > 0).any(axis=1))
            if not len(free):
                left_out += 1
                continue
            place = places[free[0]]
            taken = np.concatenate([taken, place[None]])
            centre, corner = (place[:2] + place[2:]) / 2, np.clip((place[:2] + place[2:]) / 2, box[:2], box[2:])
            if (np.abs(centre - corner) > 0.6 * size + 1).any():
                self.ax.plot(*zip(centre, corner), color=colour, lw=0.7)
            self.ax.text(
                place[0] + 0.02 * pixels,
                centre[1],
                '\n'.join(map(plain, lines)),
                va='center',
                fontsize=FONT_SIZE,
                color='white',
                linespacing=1.1,
                clip_on=True,
                bbox={'facecolor': colour, 'edgecolor': 'none', 'boxstyle': 'square,pad=0.15', 'alpha': 0.85},
            )
        if left_out:
            self.ax.set_title(f'{plain(self.title)}   {left_out} labels without room', fontsize=7, loc='left', pad=3)

    def _places(self, box: np.ndarray, size: np.ndarray) -> np.ndarray:
        """(P, 4) places of a label of ``size``, the best first: above, below, inside the box, then ever farther."""
        (x_min, y_min, x_max, y_max), (width, height) = box, size
        near = [(x, y) for y in (y_min - height, y_max, y_min, y_max - height) for x in (x_min, x_max - width)]
        x, y = np.meshgrid(np.arange(0, self.width, width / 2), np.arange(0, self.height, height / 2))
        grid = np.stack([x.ravel(), y.ravel()], axis=1)
        grid = grid[np.argsort(np.abs(grid + size / 2 - (box[:2] + box[2:]) / 2).sum(axis=1), kind='stable')]
        outer = np.maximum([self.width, self.height] - size, 0)
        inside = (np.array(near) >= 0).all(axis=1) & (np.array(near) <= outer).all(axis=1)
        low = np.concatenate([np.array(near)[inside], np.clip([near[0], near[2]], 0, outer), np.clip(grid, 0, outer)])
        return np.concatenate([low, low + size], axis=1)
