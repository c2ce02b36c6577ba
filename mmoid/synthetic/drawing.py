"""Pixels of the synthetic scenes.

Objects have saturated colours; everything else (gradient, texture, lines, blobs) is near grey and belongs to no class.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from mmoid.synthetic.scenes import Scene, SceneObject
from mmoid.synthetic.shapes import SHAPES, Placement, polar

_FINER = 3  # everything with edges is drawn so many times larger, then averaged
# Widths of the pattern are relative to the radius, so that small objects keep it readable.
_STRIPE, _DOT_RADIUS = 0.3, 0.17
_DOTS = np.stack(np.meshgrid(*[np.linspace(-1, 1, 5)] * 2, indexing='ij'), axis=-1).reshape(-1, 2)
# Tints of the object's own colour: neutral white or black would merge with a bright or dark background.
_STRIPE_LIGHTER, _DOT_DARKER = 0.68, 0.82


def draw_scene(scene: Scene) -> Image.Image:
    """Draws an image; the same scene gives the same pixels.

    Background and noise do not depend on the objects: without one of them, all other pixels stay the same.
    """
    rng = np.random.default_rng(scene.pixel_seed)
    width, height = scene.size
    canvas = _background(rng, width, height)
    for item in scene.objects:
        for placement in item.placements:
            _draw_object(canvas, item, placement)
    noise = rng.standard_normal((height, width, 3), dtype=np.float32) * rng.uniform(2.0, 7.0)
    return Image.fromarray(np.clip(np.asarray(canvas) + noise, 0, 255).astype(np.uint8))


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A tinted grey with a gradient, two scales of texture, and clutter."""
    level = (rng.uniform(70, 165) + rng.uniform(-10, 10, size=3)).astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    x = np.linspace(-1, 1, width, dtype=np.float32) * math.cos(angle)
    y = np.linspace(-1, 1, height, dtype=np.float32) * math.sin(angle)
    tone = (x[None, :] + y[:, None]) * rng.uniform(0, 40)
    for cells, strength in ((5, 14.0), (24, 9.0)):
        grid = rng.normal(0, strength * rng.uniform(0.3, 1.0), size=(cells, cells)).astype(np.float32)
        tone += np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))
    clutter = np.asarray(_clutter(rng, width, height), dtype=np.float32) - 128
    return Image.fromarray(np.clip(level + tone[:, :, None] + clutter, 0, 255).astype(np.uint8))


def _clutter(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Lines, ellipses and odd polygons in muted tones, as differences from the background (128 is none)."""
    layer = Image.new('RGB', (width * _FINER, height * _FINER), (128, 128, 128))
    pen = ImageDraw.Draw(layer)
    longer = max(layer.size)
    for _ in range(int(rng.integers(4, 13))):
        tone = rng.uniform(-60, 60) + rng.uniform(-9, 9, size=3)
        paint = tuple(int(value) for value in 128 + tone)
        centre = rng.uniform((0, 0), layer.size)
        kind = rng.integers(3)
        if kind == 0:
            ends = centre + rng.uniform(-0.5, 0.5, size=(2, 2)) * longer
            pen.line(ends.ravel().tolist(), fill=paint, width=int(rng.integers(2, 5)) * longer // 320)
        elif kind == 1:
            half = rng.uniform(0.02, 0.16, size=2) * longer
            pen.ellipse([*(centre - half).tolist(), *(centre + half).tolist()], fill=paint)
        else:  # corners at random distances: an irregular outline, unlike those of the classes
            angles = np.sort(rng.uniform(0, 2 * math.pi, size=7))
            corners = centre + polar(angles, rng.uniform(0.01, 0.16, size=7) * longer)
            pen.polygon(corners.ravel().tolist(), fill=paint)
    return layer.reduce(_FINER)


def _draw_object(canvas: Image.Image, item: SceneObject, placement: Placement) -> None:
    """Draws one shape on a finer tile of its own and pastes the tile; what is outside the image is cut off."""
    shape, pattern = SHAPES[item.kind.shape], item.kind.pattern
    points = placement.place(shape.outline)
    corner = np.floor(points.min(axis=0)).astype(int) - 1
    size = np.ceil(points.max(axis=0)).astype(int) + 1 - corner
    tile_size = (size * _FINER).tolist()

    def on_tile(points: np.ndarray) -> list[float]:
        return list(((points - corner) * _FINER).ravel().tolist())

    mask = Image.new('L', tile_size, 0)
    pen = ImageDraw.Draw(mask)
    pen.polygon(on_tile(points), fill=255)
    if shape.hole:
        pen.polygon(on_tile(placement.place(shape.outline * shape.hole)), fill=0)

    paint = Image.new('RGB', tile_size, item.colour)
    pen = ImageDraw.Draw(paint)
    if pattern == 'striped':
        light = tuple(round(value + _STRIPE_LIGHTER * (255 - value)) for value in item.colour)
        for start in np.arange(-1 + _STRIPE / 2, 1, 2 * _STRIPE):
            stripe = np.array([(start, -1), (start + _STRIPE, -1), (start + _STRIPE, 1), (start, 1)])
            pen.polygon(on_tile(placement.place(stripe)), fill=light)
    elif pattern == 'dotted':
        dark = tuple(round(value - _DOT_DARKER * value) for value in item.colour)
        reach = _DOT_RADIUS * placement.radius
        for dot in placement.place(_DOTS):
            pen.ellipse(on_tile(np.stack([dot - reach, dot + reach])), fill=dark)
    canvas.paste(paint.reduce(_FINER), tuple(corner.tolist()), mask.reduce(_FINER))
