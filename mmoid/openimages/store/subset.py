"""Some images of an AnnotationStore as stores of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric.arrays import index_column
from mmoid.openimages.ragged import row_and_position
from mmoid.openimages.readers.csv_files import COORDINATES, FLAGS
from mmoid.openimages.store.annotation_store import AnnotationStore, write_store
from mmoid.openimages.store.arrow_folder import map_tables, require_replaceable, write_together
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.tables import IndexedRows, store_tables


def subset_store(
    parent: AnnotationStore,
    images: np.ndarray,
    out: str | Path,
    made_by: Mapping[str, Any],
    overwrite: bool = False,
) -> Summary:
    """Writes a store of some images, with everything that the parent knows of them; see :func:`subset_stores`."""
    return subset_stores(parent, {Path(out): images}, made_by, overwrite)[0]


def subset_stores(
    parent: AnnotationStore, parts: Mapping[Path, np.ndarray], made_by: Mapping[str, Any], overwrite: bool = False
) -> list[Summary]:
    """Writes a store for each part, all of them or none. Classes stay as they are, present in a part or not.

    Args:
        parent: The store that the images are in.
        parts: Folder of each new store, and its images: (n,) indices, each once, in any order. They keep the order
            that they have in the parent.
        made_by: JSON values that say how the images were chosen. They go into ``metadata.json`` as ``subset``, beside
            the name and the number of images of the parent, and how that was made itself if it is a subset too.
        overwrite: Replace stores that are there; never the parent.

    Returns:
        What was read, written and left out for each part.

    Raises:
        AnnotationError: A folder that may not be replaced, images that the parent does not hold, or none.
    """
    require_writable(parent, list(parts), overwrite)
    chosen = [_require_images(parent, images) for images in parts.values()]
    summaries = []
    with write_together(list(parts), overwrite) as temporary:
        for path, images, folder in zip(parts, chosen, temporary):
            tables = _tables(parent, images)
            summary = _summary(parent, tables)
            metadata = {
                'hierarchy': parent.metadata['hierarchy'],
                'sources': parent.metadata['sources'],
                'subset': _origin(parent, made_by),
                'image_folder': _image_folder(parent, path),
                'summary': asdict(summary),
            }
            write_store(folder, tables, metadata)
            summaries.append(summary)
    return summaries


def require_writable(parent: AnnotationStore, paths: Sequence[Path], overwrite: bool) -> None:
    """Raises unless every path may take a subset of ``parent``. Call it before long work."""
    home = parent.path.resolve()
    for path in paths:
        if (new := Path(path).resolve()).is_relative_to(home) or home.is_relative_to(new):
            raise AnnotationError(f'{path}: is where the store {parent.path} lies, which is read; give another --out')
        require_replaceable(path, overwrite)


def _require_images(parent: AnnotationStore, images: np.ndarray) -> np.ndarray:
    rows = np.sort(index_column('images', images, parent.num_images))
    if not len(rows):
        raise AnnotationError('images: expects at least one image, got none')
    twice = np.flatnonzero(np.diff(rows) == 0)
    if len(twice):
        raise AnnotationError(f'images: expects each image once, got {rows[twice[0]]} twice')
    return rows


def _tables(parent: AnnotationStore, images: np.ndarray) -> dict[str, pa.Table]:
    of_images = map_tables(parent.path, ('images',))['images']

    def strings(name: str) -> pa.Array:
        return of_images[name].chunk(0).take(pa.array(images))

    new_image, box = _rows_of(parent.box_stop, images)
    corners = parent.box[box]
    boxes = {name: corners[:, i] for i, name in enumerate(COORDINATES)}
    flags = {name: parent.flag(name)[box] for name in FLAGS}
    box_rows = IndexedRows(pa.table(boxes | flags), new_image, parent.box_label[box])
    new_image, label = _rows_of(parent.label_stop, images)
    confidence = pa.table({'Confidence': parent.image_label_confidence[label]})
    return store_tables(
        strings('image_id'),
        strings('file_name'),
        parent.width[images],
        parent.height[images],
        box_rows,
        IndexedRows(confidence, new_image, parent.image_label[label]),
        parent.classes,
        parent.hierarchy,
    )


def _rows_of(stops: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position in ``images`` of every row that belongs to one of them, and the row's index in the parent."""
    lengths = np.diff(stops, prepend=0)[images]
    image, position = row_and_position(lengths)
    return image, (stops[images] - lengths)[image] + position


def _summary(parent: AnnotationStore, tables: Mapping[str, pa.Table]) -> Summary:
    summary = Summary(box_rows=parent.num_boxes, label_rows=len(parent.image_label))
    summary.count(tables)
    summary.drop('images of other subsets or none', parent.num_images - summary.images)
    summary.drop('boxes of images of other subsets or none', parent.num_boxes - summary.boxes)
    left_out = len(parent.image_label) - summary.image_labels
    summary.drop('image-level labels of images of other subsets or none', left_out)
    return summary


def _origin(parent: AnnotationStore, made_by: Mapping[str, Any]) -> dict[str, Any]:
    origin = {'parent': parent.path.resolve().name, 'parent_images': parent.num_images, **made_by}
    before = parent.metadata.get('subset')
    return origin if before is None else {**origin, 'parent_subset': before}


def _image_folder(parent: AnnotationStore, out: Path) -> str | None:
    """Relative where the pictures lie beside the new store, or beside a parent that it lies beside: they move together.

    Else absolute: the new store may be moved, the pictures stay.
    """
    if parent.image_folder is None:
        return None
    images, home = parent.image_folder.resolve(), out.resolve()
    beside_parent = parent.path.resolve().parent
    together = images.is_relative_to(home.parent) or (
        images.is_relative_to(beside_parent) and home.is_relative_to(beside_parent)
    )
    return os.path.relpath(images, home) if together else str(images)
