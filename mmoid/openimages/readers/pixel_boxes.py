"""Boxes in pixels, as COCO, YOLO and Pascal VOC have them -> rows of a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmoid.openimages.boxes import has_area
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.image_ids import number_images
from mmoid.openimages.readers.csv_files import FLAGS, UNKNOWN
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import Rows


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


def rows_of_pixels(
    image: np.ndarray,
    label: np.ndarray,
    box: np.ndarray,
    size: np.ndarray,
    flags: Mapping[str, np.ndarray],
    summary: Summary,
    place: Callable[[int], str],
    rounding: float = 1,
) -> Rows:
    """Cuts boxes at the edges of their images and drops those without area; the summary counts both.

    ``image`` and ``label`` are (B,) indices, ``box`` is (B, 4) xmin, ymin, xmax, ymax, and ``size`` (N, 2) width and
    height of the images, in pixels. ``flags`` are (B,) int8; those not given are unknown. ``place`` gives file and
    line, or element, of the box with an index. A box that leaves its image by ``rounding`` pixels is not counted.

    Raises:
        AnnotationError: The boxes are fractions of the image size.
    """
    sides = np.tile(size[image], 2)
    inside = np.clip(box / sides, 0, 1)
    solid = has_area(box)
    keep = solid & has_area(inside)
    cut = ((box < -rounding) | (box > sides + rounding)).any(axis=1)
    if keep.any() and box[keep].max() < 1.01:  # fractions are rounded
        raise AnnotationError(
            f'{place(int(np.argmax(keep)))}: all boxes are in the first pixel of their images, as fractions of the '
            'image size would be; multiply them by width and height'
        )
    summary.box_rows = len(box)
    for add, reason, rows in (
        (summary.drop, 'boxes without area', ~solid),
        (summary.drop, 'boxes outside the image', solid & ~keep),
        (summary.change, 'boxes cut at the edges of the image', keep & cut),
    ):
        if rows.any():
            add(reason, rows.sum(), place(int(np.argmax(rows))))
    unknown = {name: np.full(len(box), UNKNOWN, dtype=np.int8) for name in FLAGS if name not in flags}
    return Rows(image, label, {'box': inside, **unknown, **flags}).take(keep)
