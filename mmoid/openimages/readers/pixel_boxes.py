"""Boxes in pixels, as COCO, YOLO and Pascal VOC have them -> rows of a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmoid.openimages.boxes import has_area
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.image_ids import number_images
from mmoid.openimages.readers.csv_files import FLAGS, UNKNOWN
from mmoid.openimages.store.writing import Content, Rows


def image_table(file_names: Sequence[str], source: str | Path) -> pa.Table:
    """The images with (N,) file names, and their ids. Raises an AnnotationError if two have the same id."""
    ids, image, _ = number_images(pa.chunked_array([pa.array(file_names, pa.string())]))
    if len(ids) < len(file_names):
        row = int(np.argmin(image == np.arange(len(image))))
        names = f'{file_names[image[row]]!r} and {file_names[row]!r}'
        raise AnnotationError(
            f'{source}: holds {len(file_names)} images of {len(ids)} names; the first that are the same are {names}'
        )
    return pa.table({'image_id': ids, 'file_name': pa.array(file_names, pa.string())})


def pixel_rows(image: np.ndarray, label: np.ndarray, box: np.ndarray, flags: Mapping[str, np.ndarray]) -> Rows:
    """Boxes for :func:`with_cut_boxes`: (B,) indices, (B, 4) corners in pixels, (B,) int8 flags; the others unknown."""
    unknown = {name: np.full(len(box), UNKNOWN, dtype=np.int8) for name in FLAGS if name not in flags}
    return Rows(image, label, {'box': box, 'row': np.arange(len(box)), **unknown, **flags})


def with_cut_boxes(content: Content, place: Callable[[int], str], rounding: float = 1) -> Content:
    """Makes boxes of :func:`pixel_rows` fractions of their images.

    Cuts them at the edges and drops those without area; the summary counts both. ``place`` gives file and line, or
    element, of a row. A box that leaves its image by ``rounding`` pixels is not counted.

    Raises:
        AnnotationError: The boxes are fractions of the image size, or not finite.
    """
    rows, box, summary = content.boxes.columns['row'], content.boxes.columns['box'], content.summary

    def place_of(chosen: np.ndarray) -> str:
        return place(int(rows[np.argmax(chosen)]))

    finite = np.isfinite(box).all(axis=1)
    if not finite.all():
        raise AnnotationError(f'{place_of(~finite)}: box {box[np.argmin(finite)].tolist()} must be four numbers')
    sides = np.tile(content.sizes[content.boxes.image], 2)
    inside = np.clip(box / sides, 0, 1)
    solid = has_area(box)
    keep = solid & has_area(inside)
    cut = ((box < -rounding) | (box > sides + rounding)).any(axis=1)
    if keep.any() and box[keep].max() < 1.01:  # fractions are rounded
        raise AnnotationError(
            f'{place_of(keep)}: all boxes are in the first pixel of their images, as fractions of the '
            'image size would be; multiply them by width and height'
        )
    for add, reason, chosen in (
        (summary.drop, 'boxes without area', ~solid),
        (summary.drop, 'boxes outside the image', solid & ~keep),
        (summary.change, 'boxes cut at the edges of the image', keep & cut),
    ):
        if chosen.any():
            add(reason, chosen.sum(), place_of(chosen))
    columns = {**content.boxes.columns, 'box': inside}
    return replace(content, boxes=replace(content.boxes, columns=columns).take(keep))
