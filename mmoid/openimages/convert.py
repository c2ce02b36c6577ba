"""Official CSV files, hierarchy and images -> AnnotationStore."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .arrow_folder import require_replaceable
from .csv_files import (
    index_of,
    line_of_row,
    read_boxes,
    read_classes,
    read_image_labels,
    read_image_sizes,
)
from .errors import AnnotationError
from .hierarchy import ClassHierarchy, load_tree
from .image_files import Progress, find_images, no_progress, read_sizes
from .store import AnnotationStore, write_store
from .store_tables import IndexedRows, store_tables
from .summary import Summary, fingerprint


def convert(
    out: str | Path,
    *,
    boxes: str | Path,
    classes: str | Path,
    hierarchy: str | Path,
    image_labels: str | Path | None = None,
    images: str | Path | None = None,
    image_sizes: str | Path | None = None,
    missing_images: Literal['error', 'drop'] = 'error',
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Summary:
    """Writes an :class:`AnnotationStore` of one split.

    Args:
        out: The store's folder.
        boxes: Box CSV (see :func:`read_boxes`).
        classes: Class descriptions CSV; its order is the order of class indices.
        hierarchy: Hierarchy JSON.
        image_labels: Human-verified image-level labels CSV. Images that only have these are kept: the metric needs
            them.
        images: Folder of the pictures. Needed unless ``image_sizes`` is given.
        image_sizes: CSV of picture sizes; without it they are read from the files' headers.
        missing_images: What to do with annotated images that have no picture: raise, or leave them out.
        overwrite: Replace a store that is there.
        progress: Callback, see :data:`Progress`.

    Raises:
        AnnotationError: Anything that does not fit, by file and line.
    """
    if images is None and image_sizes is None:
        raise AnnotationError('images and image_sizes are both missing; sizes must come from one of them')
    out = Path(out)
    require_replaceable(out, overwrite)
    sources = [path for path in (boxes, classes, hierarchy, image_labels, image_sizes) if path is not None]
    with ThreadPoolExecutor(1) as hashing:
        fingerprints = hashing.submit(lambda: [fingerprint(path) for path in sources])
        descriptions = read_classes(classes)
        label_names = [mid for mid, _ in descriptions]
        class_graph = _load_hierarchy(hierarchy, classes, label_names)
        progress('reading boxes', 0, 1)
        box_table = read_boxes(boxes)
        label_table = _no_labels() if image_labels is None else read_image_labels(image_labels)
        progress('reading boxes', 1, 1)
        summary = Summary(box_rows=len(box_table), label_rows=len(label_table))
        image_ids, box_rows, label_rows = _number_images(box_table, label_table, label_names, boxes, image_labels or '')
        file_names, width, height, keep = _locate(image_ids, images, image_sizes, missing_images, progress)
        if not keep.all():
            new_image = np.cumsum(keep) - 1
            image_ids = image_ids.filter(pa.array(keep))
            before = len(box_rows.label), len(label_rows.label)
            box_rows = box_rows.where(keep[box_rows.image], new_image)
            label_rows = label_rows.where(keep[label_rows.image], new_image)
            summary.drop('images without a picture', int((~keep).sum()))
            summary.drop('boxes of images without a picture', before[0] - len(box_rows.label))
            summary.drop('image-level labels of images without a picture', before[1] - len(label_rows.label))
        progress('writing', 0, 1)
        tables = store_tables(image_ids, file_names, width, height, box_rows, label_rows, descriptions, class_graph)
        summary.count(tables)
        metadata = {
            'hierarchy': load_tree(hierarchy),
            'sources': fingerprints.result(),
            'image_folder': None if images is None else _stored_folder(Path(images), out),
            'summary': asdict(summary),
        }
        write_store(out, tables, metadata, overwrite)
        progress('writing', 1, 1)
    AnnotationStore(out)  # opens, or the caller hears of it now
    return summary


def _load_hierarchy(path: str | Path, classes: str | Path, label_names: Sequence[str]) -> ClassHierarchy:
    known = ClassHierarchy.node_names(load_tree(path))
    for name in label_names:
        if name not in known:
            line = _line_of_class(classes, name)
            raise AnnotationError(f'{classes}:{line}: class {name!r} is not in the hierarchy {path}')
    return ClassHierarchy.from_json(path, label_names)


def _line_of_class(classes: str | Path, name: str) -> int:
    return next(i for i, line in enumerate(Path(classes).read_text().splitlines(), 1) if line.startswith(f'{name},'))


def _no_labels() -> pa.Table:
    text = pa.array([], pa.string()).dictionary_encode()
    return pa.table({'ImageID': text, 'LabelName': text, 'Confidence': pa.array([], pa.float32())})


def _number_images(
    box_table: pa.Table,
    label_table: pa.Table,
    label_names: Sequence[str],
    boxes: str | Path,
    image_labels: str | Path,
) -> tuple[pa.Array, IndexedRows, IndexedRows]:
    """Numbers images in the order in which the box file, then the label file, first names them."""
    first = _dictionary(box_table['ImageID'])
    second = _dictionary(label_table['ImageID'])
    image_ids = pa.concat_arrays([first, second.filter(pc.invert(pc.is_in(second, first)))])
    rows = []
    for table, path in ((box_table, boxes), (label_table, image_labels)):
        label = index_of(table['LabelName'], label_names)
        if (label < 0).any():
            row = int(np.argmax(label < 0))
            name = table['LabelName'][row].as_py()
            raise AnnotationError(f'{path}:{line_of_row(path, row)}: LabelName {name!r} is not among the classes')
        rows.append(IndexedRows(table, index_of(table['ImageID'], image_ids), label))
    return image_ids, rows[0], rows[1]


def _dictionary(column: pa.ChunkedArray) -> pa.Array:
    # An empty file has no chunk, hence no dictionary.
    return column.chunk(0).dictionary if column.num_chunks else pa.array([], pa.string())


def _locate(
    image_ids: pa.Array,
    images: str | Path | None,
    image_sizes: str | Path | None,
    missing_images: str,
    progress: Progress,
) -> tuple[pa.Array, np.ndarray, np.ndarray, np.ndarray]:
    """File names and sizes of the images kept, and (N,) bool which of all are kept."""
    if images is None:
        file_names = pc.binary_join_element_wise(image_ids, '.jpg', '')
        keep: np.ndarray = np.ones(len(image_ids), dtype=bool)
    else:
        found = find_images(images)
        # Some lists give the id with its extension.
        stems = pc.replace_substring_regex(image_ids, r'(?i)\.(jpg|jpeg|png)$', '')
        row = pc.index_in(stems, pa.array(list(found), pa.string()))
        keep = row.is_valid().to_numpy(zero_copy_only=False)
        if missing_images == 'error' and not keep.all():
            first = image_ids[int(np.argmin(keep))].as_py()
            raise AnnotationError(
                f'{images}: has no picture of {int((~keep).sum())} of the {len(image_ids)} annotated images, first '
                f"{first!r}; complete the folder, or leave them out with missing_images='drop'"
            )
        file_names = pa.array(list(found.values()), pa.string()).take(row.drop_null())
    if image_sizes is None:
        assert images is not None
        width, height = read_sizes(images, file_names.to_pylist(), progress)
    else:
        width, height = _sizes_from_csv(image_sizes, image_ids.filter(pa.array(keep)))
    return file_names, width, height, keep


def _sizes_from_csv(path: str | Path, image_ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    table = read_image_sizes(path)
    row = pc.index_in(image_ids, table['image_id'].combine_chunks())
    if row.null_count:
        first = image_ids[pc.index(pc.is_null(row), True).as_py()].as_py()
        raise AnnotationError(f'{path}: has no size of {row.null_count} annotated images, first {first!r}')
    rows = row.to_numpy()
    return table['width'].to_numpy()[rows], table['height'].to_numpy()[rows]


def _stored_folder(images: Path, out: Path) -> str:
    """Relative where images and store lie in one folder, so that both can move together; else absolute."""
    images, home = images.resolve(), out.resolve()
    return os.path.relpath(images, home) if images.is_relative_to(home.parent) else str(images)
