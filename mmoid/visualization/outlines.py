"""Boxes with lists of labels on a image, placed so that they can be read; and sheets of such images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.textpath import TextPath

from mmoid.openimages.statistics.objects import object_of_box
from mmoid.visualization.figure import plain

# Dark enough for white letters, far enough apart to tell neighbours by.
COLOURS = ('#0072b2', '#c43c00', '#00806a', '#a3338c', '#8a6d00', '#3f51b5', '#b3003c', '#4d7a00', '#6a4fa3', '#00708f')
GREY, FOUND, FALSE, MISSED = '#777777', '#1a8a3c', '#c62828', '#c62828'

FONT_SIZE = 6.5
LINE_HEIGHT = 1.22 * FONT_SIZE
PAD = 1.6
POINTS = 72
CELL = (4.6, 3.45)
"""Inches of an image's place in a sheet."""

TITLE = 0.24
"""Inches of the line above it."""


@dataclass(frozen=True)
class Outline:
    """One box on a image.

    Attributes:
        box: xmin, ymin, xmax, ymax in the image's coordinates.
        lines: Its labels, one below the other; none for a bare box.
        colour: Of the box and behind the labels.
        dashed: Whether it is a group-of box.
        weight: Factor of the line's width.
    """

    box: tuple[float, float, float, float]
    lines: tuple[str, ...]
    colour: str
    dashed: bool = False
    weight: float = 1.0


def colour_of(label: int) -> str:
    """The colour of a class."""
    return COLOURS[label % len(COLOURS)]


def objects_of(box: np.ndarray, same_object_iou: float) -> list[np.ndarray]:
    """Rows of the boxes on each object, in the order of first rows.

    Args:
        box: (B, 4), any unit.
        same_object_iou: Boxes that overlap so much are one object; in (0, 1].
    """
    objects = object_of_box(np.asarray(box, np.float64), np.array([len(box)]), np.zeros(len(box)), same_object_iou)
    return [np.flatnonzero(objects == index) for index in range(int(objects.max(initial=-1)) + 1)]


def sheet(sizes: Sequence[tuple[int, int]], title: str, columns: int = 4) -> tuple[Figure, list[Axes]]:
    """A figure with one place for each image, as large as its shape allows, and nothing moved afterwards.

    Args:
        sizes: Width and height of each image.
        title: Above all of them.
        columns: Images beside each other.
    """
    columns = max(1, min(columns, len(sizes)))
    rows = max(1, math.ceil(len(sizes) / columns))
    gap, head = 0.12, 0.42
    width = columns * (CELL[0] + gap) + gap
    height = head + rows * (CELL[1] + TITLE + gap)
    figure = Figure(figsize=(width, height), facecolor='white')
    figure.text(gap / width, 1 - 0.2 / height, title, fontsize=10, va='center')
    axes = []
    for index, (image_width, image_height) in enumerate(sizes):
        row, column = divmod(index, columns)
        scale = min(CELL[0] / image_width, CELL[1] / image_height)
        w, h = scale * image_width, scale * image_height
        left = gap + column * (CELL[0] + gap)
        top = head + row * (CELL[1] + TITLE + gap) + TITLE
        ax = figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))
        ax.set_axis_off()
        axes.append(ax)
    return figure, axes


def show_image(ax: Axes, image: np.ndarray, title: str, extent: tuple[float, float] | None = None) -> None:
    """Shows a image that fills its axes.

    Args:
        ax: Of :func:`sheet`.
        image: (H, W, 3) uint8 RGB.
        title: One line above it.
        extent: Width and height in the coordinates that boxes will have; None: its pixels.
    """
    width, height = extent or (image.shape[1], image.shape[0])
    ax.imshow(image, extent=(0, width, height, 0), aspect='auto', interpolation='antialiased')
    ax.set_title(title, fontsize=7, loc='left', pad=3, color='#333333')


def draw_outlines(ax: Axes, outlines: Sequence[Outline]) -> None:
    """Draws boxes and their labels; a label stands where it covers other labels least, and within the image.

    Args:
        ax: Filled by :func:`show_image`.
        outlines: Large boxes first, so that none hides another's line; the order of the list decides between equals.
    """
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    place = ax.get_position()
    size = np.array([place.width * figure.get_figwidth(), place.height * figure.get_figheight()]) * POINTS
    scale = size / np.array([right - left, bottom - top])  # points of one unit
    by_area = sorted(outlines, key=lambda item: -(item.box[2] - item.box[0]) * (item.box[3] - item.box[1]))
    taken: list[tuple[float, float, float, float]] = []
    for item in by_area:
        ax.add_patch(_rectangle(item))
    for item in by_area:
        if not item.lines:
            continue
        extent = (max(_width(line) for line in item.lines) + 2 * PAD, len(item.lines) * LINE_HEIGHT + 2 * PAD)
        corners = np.array(item.box).reshape(2, 2) * scale
        x, y = _place(corners.ravel(), extent, size, taken)
        taken.append((x, y, x + extent[0], y + extent[1]))
        ax.text(
            (x + PAD) / scale[0], (y + PAD) / scale[1], '\n'.join(map(plain, item.lines)), fontsize=FONT_SIZE,
            color='white', va='top', ha='left', linespacing=1.1, clip_on=True,
            bbox={'facecolor': item.colour, 'edgecolor': 'none', 'boxstyle': f'square,pad={PAD / FONT_SIZE:.3f}',
                  'alpha': 0.85},
        )  # fmt: skip


def _rectangle(item: Outline) -> Rectangle:
    x_min, y_min, x_max, y_max = item.box
    style = (0, (4, 2.5)) if item.dashed else 'solid'
    patch = Rectangle(
        (x_min, y_min), x_max - x_min, y_max - y_min, fill=False, edgecolor=item.colour, linewidth=1.6 * item.weight,
        linestyle=style,
    )  # fmt: skip
    patch.set_path_effects([Stroke(linewidth=1.6 * item.weight + 1.2, foreground='white', alpha=0.7), Normal()])
    return patch


def _place(
    box: np.ndarray, extent: tuple[float, float], size: np.ndarray, taken: Sequence[tuple[float, float, float, float]]
) -> tuple[float, float]:
    """Upper left corner of a label, in points: above the box, inside it, below it, on either side."""
    x_min, y_min, x_max, y_max = box
    w, h = extent
    wanted = (
        (x_min, y_min - h), (x_min, y_min), (x_min, y_max), (x_min, y_max - h),
        (x_max - w, y_min - h), (x_max - w, y_min), (x_max - w, y_max), (x_max - w, y_max - h),
        (x_min, (y_min + y_max - h) / 2), (x_max - w, (y_min + y_max - h) / 2), (x_max, y_min), (x_min - w, y_min),
    )  # fmt: skip
    best, least = (0.0, 0.0), math.inf
    for rank, (x, y) in enumerate(wanted):
        inside_x, inside_y = min(max(x, 0), max(0, size[0] - w)), min(max(y, 0), max(0, size[1] - h))
        covered = sum(_common(inside_x, inside_y, w, h, other) for other in taken)
        cost = covered + 0.25 * (abs(inside_x - x) + abs(inside_y - y)) + 0.01 * rank
        if cost < least:
            best, least = (inside_x, inside_y), cost
    return best


def _common(x: float, y: float, w: float, h: float, other: tuple[float, float, float, float]) -> float:
    """Area that a label and another have in common."""
    return max(0.0, min(x + w, other[2]) - max(x, other[0])) * max(0.0, min(y + h, other[3]) - max(y, other[1]))


@lru_cache(maxsize=4096)
def _width(line: str) -> float:
    """Points of one line of a label; a little more than the outlines take, for letters are fitted to pixels."""
    return 1.08 * float(TextPath((0, 0), plain(line), size=FONT_SIZE).get_extents().width) if line.strip() else 0.0
