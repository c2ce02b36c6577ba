"""Outlines of the synthetic shapes, and the tight boxes that follow from them.

Lengths are pixels of the image; pixel (0, 0) covers [0, 1] x [0, 1], y points down.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

Box = tuple[float, float, float, float]  # x_min, y_min, x_max, y_max


class Placement(NamedTuple):
    """Centre and radius of the bounding circle in pixels, rotation in radians."""

    x: float
    y: float
    radius: float
    angle: float


def outline(shape: str) -> np.ndarray:
    """(P, 2) closed polygon of a shape of ``SHAPES``; the farthest point has distance 1 from the origin."""
    return _OUTLINES[shape]


def hole(shape: str) -> np.ndarray | None:
    """(P, 2) closed polygon that is left out of the middle, if any."""
    return _OUTLINES[shape] * _HOLES[shape] if shape in _HOLES else None


def rotated(points: np.ndarray, angle: float) -> np.ndarray:
    """(P, 2) points turned about the origin by ``angle`` radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    turned: np.ndarray = points @ np.array([[cos, sin], [-sin, cos]])
    return turned


def placed(points: np.ndarray, placement: Placement) -> np.ndarray:
    """(P, 2) points of a shape at their place in the image."""
    return rotated(points * placement.radius, placement.angle) + (placement.x, placement.y)


def whole_box(points: np.ndarray) -> Box:
    """The tight box of a polygon, whether inside the image or not."""
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


def visible_box(points: np.ndarray, width: int, height: int) -> Box:
    """The tight box of the part of a polygon that lies inside the image; of no area if there is none.

    Clipping the whole box would be too loose: the widest part may be the one outside. What is left of the edges
    inside the image decides (Liang-Barsky, all edges at once); the polygon must not cover a corner of the image
    without an edge nearby, which no shape smaller than the image does.
    """
    start = points
    delta = np.roll(points, -1, axis=0) - start
    delta = np.where(np.abs(delta) < 1e-9, 1e-9, delta)
    crossings = np.stack([-start / delta, ((width, height) - start) / delta])
    enter = np.clip(crossings.min(axis=0).max(axis=1), 0, None)
    leave = np.clip(crossings.max(axis=0).min(axis=1), None, 1)
    inside = enter <= leave
    if not inside.any():
        return (0.0, 0.0, 0.0, 0.0)
    ends = np.concatenate([(start + enter[:, None] * delta)[inside], (start + leave[:, None] * delta)[inside]])
    return whole_box(np.clip(ends, 0, (width, height)))


def area(box: Box) -> float:
    """Area of a box."""
    return (box[2] - box[0]) * (box[3] - box[1])


def common_area(first: Box, second: Box) -> float:
    """Area of the intersection of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


def _ellipse(height: float, corners: int = 48) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(angle), height * np.sin(angle)], axis=1)


def _star() -> np.ndarray:
    angle = np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2, 0.45, 1.0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    return np.stack([x, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))], axis=1)


def _crescent() -> np.ndarray:
    """The unit disc without a disc of radius 0.8 about (0.45, 0); they meet at (0.625, +-0.78)."""
    tip = np.array([0.625, math.sqrt(1 - 0.625**2)])
    outer = np.linspace(math.atan2(tip[1], tip[0]), 2 * np.pi - math.atan2(tip[1], tip[0]), 32)
    bite = np.linspace(2 * np.pi - math.atan2(tip[1], tip[0] - 0.45), math.atan2(tip[1], tip[0] - 0.45), 32)[1:-1]
    outer_points = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    return np.concatenate([outer_points, np.stack([0.45 + 0.8 * np.cos(bite), 0.8 * np.sin(bite)], axis=1)])


def _centred(points: list[tuple[float, float]] | np.ndarray) -> np.ndarray:
    array = np.asarray(points, dtype=float)
    array -= (array.min(axis=0) + array.max(axis=0)) / 2
    array /= np.linalg.norm(array, axis=1).max()
    return array


_SQUARE = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
_CROSS = [(1, 0.34), (1, -0.34), (0.34, -0.34), (0.34, -1), (-0.34, -1), (-0.34, -0.34)]
_ARROW = [(1.0, 0.0), (0.1, 0.8), (0.1, 0.3), (-1.0, 0.3), (-1.0, -0.3), (0.1, -0.3), (0.1, -0.8)]
_OUTLINES = {
    'Circle': _ellipse(1.0),
    'Square': _centred(_SQUARE),
    'Star': _centred(_star()),
    'Ring': _ellipse(1.0),
    'Triangle': _centred([(0.0, -1.0), (0.87, 0.5), (-0.87, 0.5)]),
    'Cross': _centred([*_CROSS, *((-x, -y) for x, y in _CROSS)]),
    'Heart': _centred(_heart()),
    'Bar': _centred([(-1.0, -0.32), (1.0, -0.32), (1.0, 0.32), (-1.0, 0.32)]),
    'Crescent': _centred(_crescent()),
    'Frame': _centred(_SQUARE),
    'Arrow': _centred(_ARROW),
    'Oval': _ellipse(0.55),
}
_HOLES = {'Ring': 0.55, 'Frame': 0.58}
