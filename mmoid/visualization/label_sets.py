"""Images with boxes: annotations, predictions, mistakes, and what a stage feeds. One box per object, all its labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps

from mmoid.openimages.boxes import box_area, intersection_area
from mmoid.openimages.metric.matching import GroundTruth
from mmoid.openimages.metric.mistakes import Verdict, judge
from mmoid.openimages.predictions.prediction_store import Detections, Predictions
from mmoid.openimages.statistics.objects import object_of_box
from mmoid.openimages.store.annotation_store import AnnotationStore

# Dark enough for white letters.
COLOURS = ('#0072b2', '#c43c00', '#00806a', '#a3338c', '#8a6d00', '#3f51b5', '#b3003c', '#4d7a00', '#6a4fa3', '#00708f')
GREEN, RED, GREY = '#1a8a3c', '#c62828', '#777777'
VERDICTS = {Verdict.TRUE: (GREEN, ''), Verdict.FALSE: (RED, ' false'), Verdict.NOT_COUNTED: (GREY, ' not counted')}
MAX_OTHERS = 8  # boxes of other classes that are drawn beside the mistakes of one
SAME_OBJECT, SAME_PREDICTION = 0.9, 0.8  # IoU from which annotations, and detections, share one drawn box
MAX_SIDE = 900  # pixels of a drawn image's longer side
WIDTH, HEIGHT = 4.6, 3.45  # inches of an image's place on a sheet
DPI = 100  # at which text is measured: letters are a little wider there than at 120 to 150 dpi, which are saved


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image and its ground truth, of a store or of a training batch."""

    title: str
    image: np.ndarray  # (H, W, 3) uint8 RGB, before normalisation and padding
    box: np.ndarray  # (B, 4) xmin, ymin, xmax, ymax as fractions of the image size
    label: np.ndarray  # (B,) class indices, as annotated
    label_set: np.ndarray  # (B, C) bool, the labels that a proposal on the box learns
    group_of: np.ndarray  # (B,) bool
    ignored: np.ndarray  # (B,) bool; proposals on these boxes are neither objects nor background


class LabelledBox(NamedTuple):
    """One object as drawn: (4,) corners as fractions of the image size, one line per label, colour; groups dashed."""

    corners: np.ndarray
    lines: Sequence[str]
    colour: str
    dashed: bool = False


class ImageReader:
    """Reads a store's images so that the boxes fit; at most :data:`MAX_SIDE` pixels long.

    Images that cannot be read are grey; ``unreadable`` has the reason by file. Without an image folder: ValueError.
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
                pixels = (ImageOps.exif_transpose(file) if self.store.upright else file).convert('RGB')
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            self.unreadable[str(path)] = str(getattr(error, 'strerror', None) or error)
            pixels = Image.new('RGB', (int(self.store.width[image]), int(self.store.height[image])), '#cccccc')
        pixels.thumbnail((MAX_SIDE, MAX_SIDE))
        return np.asarray(pixels)

    def annotated(self, image: int, rows: np.ndarray) -> AnnotatedImage:
        """An image with (B,) rows of the store's boxes."""
        store, label = self.store, self.store.box_label[rows]
        return AnnotatedImage(
            title=store.image_id(image),
            image=self(image),
            box=store.box[rows],
            label=label,
            label_set=np.zeros((len(rows), store.num_classes), dtype=bool),
            group_of=store.is_group_of[rows] == 1,
            ignored=np.zeros(len(rows), dtype=bool),
        )


def draw_annotations(store: AnnotationStore, images: Sequence[int]) -> Figure:
    """Images of a store, which knows its image folder, by index, with their annotations; group-of boxes are dashed."""
    read = ImageReader(store)
    items = [read.annotated(image, np.r_[store.boxes_of_image(image)]) for image in images]
    panels = [(item.title, item.image, annotated_boxes(item, store.class_names, SAME_OBJECT)) for item in items]
    return draw_sheet('Ground truth: one box per object, group-of boxes dashed', panels)


def draw_predictions(
    store: AnnotationStore, predictions: Predictions, images: Sequence[int], score_threshold: float = 0.4
) -> Figure:
    """Images of a store, by index, with their detections; detections with (nearly) the same box share one.

    The store must know its image folder. The predictions have its image ids and class indices
    (:func:`align_predictions`). Scores below ``score_threshold``, in [0, 1], are not drawn.
    """
    read, panels = ImageReader(store), []
    for image in images:
        found = detections(predictions, store.image_id(image), score_threshold)
        panels.append((store.image_id(image), read(image), detected_boxes(store, found)))
    return draw_sheet(f'Predictions with a score of at least {score_threshold:g}   —   ↑ ancestors', panels)


def draw_training_items(
    items: Sequence[AnnotatedImage], class_names: Sequence[str], title: str, same_object_iou: float = SAME_OBJECT
) -> Figure:
    """Images as the model gets them: annotated labels, then ancestors (↑). ``same_object_iou`` is the model's."""
    panels = [(item.title, item.image, annotated_boxes(item, class_names, same_object_iou)) for item in items]
    return draw_sheet(f'{title}   —   ↑ ancestor, dashed: group-of, grey: ignored', panels, columns=3)


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
    """Draws pairs of images for one class, ground truth on the left and predictions on the right.

    Found objects and true detections are green, missed objects and false detections red. Detections that do not count
    and boxes of other classes are thin and grey. Group-of boxes are dashed.

    ``read``, ``ground_truth`` and the indices ``label`` and ``images`` are of the evaluated split. The predictions have
    its image ids and class indices (:func:`align_predictions`); those below ``score_threshold`` are left out.
    """
    store, truth, panels = read.store, ground_truth, []
    for image in images:
        detected = detections(predictions, store.image_id(image), score_threshold)
        is_ours = detected.label == label
        box, score = detected.box[is_ours], detected.score[is_ours]
        verdict, found = judge(truth, image, label, score, box, iou_threshold)
        right = []
        for corners, kind, value in zip(box, verdict, score):
            colour, note = VERDICTS[Verdict(kind)]
            right.append(LabelledBox(corners, [f'{value:.2f}{note}'], colour))
        right += detected_boxes(store, detected.take(~is_ours), GREY)[:MAX_OTHERS]

        rows = np.flatnonzero((truth.image == image) & (truth.label == label))
        # A group-of box is found if it holds enough of a detection that does not count.
        absorbed = box[verdict == Verdict.NOT_COUNTED]
        holds = intersection_area(truth.box[rows, None], absorbed) >= iou_threshold * box_area(absorbed)
        is_found = np.where(truth.is_group_of[rows], holds.any(axis=1), np.isin(rows, found))
        left = []
        for row, ok in zip(rows, is_found):
            annotated = store.box_label[truth.source[row]]  # a descendant, where the ground truth was expanded
            lines = [] if annotated == label else [store.class_names[annotated]]
            lines += [] if ok else ['missed']
            left.append(LabelledBox(truth.box[row], lines, GREEN if ok else RED, truth.is_group_of[row]))
        others = np.setdiff1d(np.r_[store.boxes_of_image(image)], truth.source[rows])[:MAX_OTHERS]
        item = read.annotated(image, others)
        left += annotated_boxes(item, store.class_names, SAME_OBJECT, GREY)

        verified = truth.verified is None or np.isin(image * truth.num_classes + label, truth.verified)
        note = f'{is_found.sum()} of {len(rows)} found' if verified else 'class not verified here'
        counts = f'{(verdict == Verdict.TRUE).sum()} true, {(verdict == Verdict.FALSE).sum()} false'
        panels += [(f'{item.title}   {note}', item.image, left), (f'predictions   {counts}', item.image, right)]
    return draw_sheet(title, panels)


def detections(predictions: Predictions, image_id: str, score_threshold: float) -> Detections:
    """Those on an image, best score first; none if it was not predicted."""
    found = predictions.detections(np.array([predictions.ids.index(image_id).as_py()])).best_first()
    return found.take(found.score >= score_threshold)


def detected_boxes(store: AnnotationStore, found: Detections, colour: str | None = None) -> list[LabelledBox]:
    """One box for each object on the detections of an image, best score first, with lines such as ``Apple 0.92``.

    Each class is named once, with its best score. Ancestors of other classes come in one line: ``↑ Fruit, Food``.
    """
    boxes, names = [], store.class_names
    for members in objects_of(found.box, SAME_PREDICTION):
        best = members[np.sort(np.unique(found.label[members], return_index=True)[1])]
        label, score = found.label[best], found.score[best]
        above = store.hierarchy.ancestor_matrix[label][:, label].any(axis=0)
        lines = [f'{names[k]} {value:.2f}' for k, value in zip(label[~above], score[~above])]
        if above.any():
            lines.append(f'↑ {", ".join(names[k] for k in label[above])}')
        of_object = colour or COLOURS[label[~above][0] % len(COLOURS)]
        boxes.append(LabelledBox(found.box[members[0]], lines, of_object))
    return boxes


def annotated_boxes(
    item: AnnotatedImage, class_names: Sequence[str], same_object_iou: float, colour: str | None = None
) -> list[LabelledBox]:
    """One box for each object, with its labels as annotated, then the others of its label set (↑)."""
    boxes = []
    for ignored, group_of in product((False, True), repeat=2):
        rows = np.flatnonzero((item.ignored == ignored) & (item.group_of == group_of))
        for members in objects_of(item.box[rows], same_object_iou):
            label, label_set = item.label[rows[members]], item.label_set[rows[members]].any(axis=0)
            label_set[label] = False
            lines = [class_names[k] + (', ignored' if ignored else '') for k in dict.fromkeys(label)]
            lines += [f'↑ {class_names[k]}' for k in np.flatnonzero(label_set)]
            of_object = GREY if ignored else colour or COLOURS[label[0] % len(COLOURS)]
            boxes.append(LabelledBox(item.box[rows[members[0]]], lines, of_object, group_of))
    return boxes


def objects_of(box: np.ndarray, same_object_iou: float) -> list[np.ndarray]:
    """Rows of the (B, 4) boxes on each object, in the order of first rows."""
    objects = object_of_box(np.asarray(box, np.float64), np.array([len(box)]), np.zeros(len(box)), same_object_iou)
    return [np.flatnonzero(objects == index) for index in range(int(objects.max(initial=-1)) + 1)]


def draw_sheet(title: str, panels: Sequence[tuple[str, np.ndarray, Sequence[LabelledBox]]], columns: int = 4) -> Figure:
    """Draws titles, (H, W, 3) uint8 RGB images and their boxes."""
    columns = max(1, min(columns, len(panels)))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(columns * WIDTH, rows * (HEIGHT + 0.3) + 0.3), dpi=DPI, layout='constrained')
    FigureCanvasAgg(figure)  # measures text
    figure.suptitle(title, x=0, ha='left', fontsize=10, parse_math=False)
    for place, panel in enumerate(panels, 1):
        _draw_panel(figure.add_subplot(rows, columns, place), *panel)
    return figure


def _draw_panel(ax: Axes, title: str, image: np.ndarray, boxes: Sequence[LabelledBox]) -> None:
    """Draws the boxes and their labels, which cover no other label; a line leads to a box that is not near.

    Labels without room are left out and counted in the title. Grey boxes are thin.
    """
    size = np.array(image.shape[1::-1])
    ax.set_axis_off()
    ax.imshow(image, extent=(0, size[0], size[1], 0))
    per_inch = (size / (WIDTH, HEIGHT)).max()  # pixels of the image, per inch of the sheet
    margin = 0.02 * per_inch
    taken, left_out = np.empty((0, 4)), 0
    for corners, lines, colour, dashed in boxes:
        box = corners * np.tile(size, 2)
        width, style = 0.8 if colour == GREY else 1.6, 'dashed' if dashed else 'solid'
        ax.add_patch(Rectangle(box[:2], *(box[2:] - box[:2]), fill=False, edgecolor=colour, lw=width, ls=style))
        if not lines:
            continue
        text = ax.text(0, 0, '\n'.join(lines), color='white', fontsize=6.5, linespacing=1.1, va='top', clip_on=True)
        text.set(bbox=dict(facecolor=colour, lw=0, boxstyle='square,pad=0.15', alpha=0.85), parse_math=False)
        extent = np.array(text.get_window_extent().size) / DPI * per_inch + 2 * margin
        places = _places(box, extent, size)
        free = ~(intersection_area(places[:, None], taken) > 0).any(axis=1)
        if not free.any():
            text.remove()
            left_out += 1
            continue
        place = places[free.argmax()]
        taken = np.concatenate([taken, place[None]])
        text.set_position(place[:2] + margin)
        centre = (place[:2] + place[2:]) / 2
        nearest = np.clip(centre, box[:2], box[2:])
        if (np.abs(centre - nearest) > 0.6 * extent + 1).any():
            ax.plot(*zip(centre, nearest), color=colour, lw=0.7)
    note = f'   {left_out} labels without room' if left_out else ''
    ax.set_title(title + note, fontsize=7, loc='left', pad=3, parse_math=False)


def _places(box: np.ndarray, extent: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(P, 4) places in an image for a label, the best first: above, below and inside the box, then ever farther."""
    (x_min, y_min, x_max, y_max), (width, height) = box, extent
    near = np.array([(x, y) for y in (y_min - height, y_max, y_min, y_max - height) for x in (x_min, x_max - width)])
    grid = np.mgrid[0 : size[0] : width / 2, 0 : size[1] : height / 2].reshape(2, -1).T
    distance = np.abs(grid + extent / 2 - (box[:2] + box[2:]) / 2).sum(axis=1)
    room = np.maximum(size - extent, 0)
    fits = ((near >= 0) & (near <= room)).all(axis=1)
    anywhere = np.concatenate([near, grid[np.argsort(distance, kind='stable')]])
    low = np.concatenate([near[fits], np.clip(anywhere, 0, room)])
    return np.concatenate([low, low + extent], axis=1)
