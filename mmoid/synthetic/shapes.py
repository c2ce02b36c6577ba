"""The shapes and colours of the synthetic objects, and where shapes are placed. y points down."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


def polar(angle: np.ndarray, radius: np.ndarray | float = 1.0) -> np.ndarray:
    """(P, 2) points at angles in radians and distances from the origin."""
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


class Placement(NamedTuple):
    """Centre and radius of a shape's bounding circle in pixels, its rotation in radians."""

    x: float
    y: float
    radius: float
    angle: float

    def place(self, points: np.ndarray) -> np.ndarray:
        """(P, 2) points of a shape at their place in the image."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turned: np.ndarray = (points * self.radius) @ np.array([[cos, sin], [-sin, cos]])
        return turned + (self.x, self.y)


class Shape(NamedTuple):
    """A class of shapes."""

    outline: np.ndarray  # (P, 2) closed polygon; the farthest point has distance 1 from the origin
    second_name: str  # of a second class with the same look
    parents: tuple[str, ...]
    hole: float = 0  # size of the hole in the middle, relative to the shape


def _centred(points: list[tuple[float, float]] | np.ndarray) -> np.ndarray:
    array = np.asarray(points, dtype=float)
    array -= (array.min(axis=0) + array.max(axis=0)) / 2
    array /= np.linalg.norm(array, axis=1).max()
    return array


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return _centred(np.stack([16 * np.sin(t) ** 3, -y], axis=1))


def _crescent() -> np.ndarray:
    """The unit disc without a disc of radius 0.8 about (0.45, 0); they meet at (0.625, +-0.78)."""
    tip_y = math.sqrt(1 - 0.625**2)
    outer_tip, bite_tip = math.atan2(tip_y, 0.625), math.atan2(tip_y, 0.625 - 0.45)
    outer = polar(np.linspace(outer_tip, 2 * np.pi - outer_tip, 32))
    bite = polar(np.linspace(2 * np.pi - bite_tip, bite_tip, 32)[1:-1], 0.8)
    return _centred(np.concatenate([outer, bite + (0.45, 0.0)]))


_CIRCLE = polar(np.linspace(0, 2 * np.pi, 48, endpoint=False))
_SQUARE = _centred([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
_STAR = _centred(polar(np.arange(10) * np.pi / 5, np.where(np.arange(10) % 2, 0.45, 1.0)))
_TRIANGLE = _centred([(0.0, -1.0), (0.87, 0.5), (-0.87, 0.5)])
_CORNERS = [(1, 0.34), (1, -0.34), (0.34, -0.34), (0.34, -1), (-0.34, -1), (-0.34, -0.34)]
_CROSS = _centred([*_CORNERS, *((-x, -y) for x, y in _CORNERS)])
_BAR = _centred([(-1.0, -0.32), (1.0, -0.32), (1.0, 0.32), (-1.0, 0.32)])
_ARROW = _centred([(1.0, 0.0), (0.1, 0.8), (0.1, 0.3), (-1.0, 0.3), (-1.0, -0.3), (0.1, -0.3), (0.1, -0.8)])
COLOURS = {  # saturated hues 60 degrees apart; the backgrounds are grey
    'red': (225, 30, 35),
    'yellow': (240, 220, 25),
    'green': (30, 170, 45),
    'cyan': (20, 205, 225),
    'blue': (35, 60, 225),
    'magenta': (220, 45, 200),
}
# Distinct under any rotation even at 16 px. Worlds with few classes use the first ones.
SHAPES = {
    'Circle': Shape(_CIRCLE, 'disc', ('Round shape',)),
    'Square': Shape(_SQUARE, 'tile', ('Polygon',)),
    'Star': Shape(_STAR, 'badge', ('Symbol',)),
    'Ring': Shape(_CIRCLE, 'hoop', ('Round shape', 'Hollow shape'), hole=0.55),
    'Triangle': Shape(_TRIANGLE, 'wedge', ('Polygon',)),
    'Cross': Shape(_CROSS, 'plus', ('Symbol',)),
    'Heart': Shape(_heart(), 'valentine', ('Symbol',)),
    'Bar': Shape(_BAR, 'stick', ('Polygon',)),
    'Crescent': Shape(_crescent(), 'moon', ('Round shape',)),
    'Frame': Shape(_SQUARE, 'window', ('Polygon', 'Hollow shape'), hole=0.58),
    'Arrow': Shape(_ARROW, 'pointer', ('Symbol',)),
    'Oval': Shape(_CIRCLE * (1.0, 0.55), 'egg', ('Round shape',)),
}
