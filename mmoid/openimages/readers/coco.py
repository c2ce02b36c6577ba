"""COCO JSON file -> AnnotationStore."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy, load_tree
from mmoid.openimages.readers.coco_json_file import JsonFile
from mmoid.openimages.readers.coco_rows import HIERARCHY_KEY, read_annotations, read_categories, read_images
from mmoid.openimages.readers.csv_files import COORDINATES
from mmoid.openimages.readers.image_files import stored_folder
from mmoid.openimages.store.annotation_store import AnnotationStore, write_store
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.openimages.store.summary import Summary, fingerprint
from mmoid.openimages.store.tables import IndexedRows, store_tables
from mmoid.utils.progress import Progress, no_progress

ROUNDING = 0.01
"""Pixels by which a box may stick out of its image and not be called clipped: files are rounded to two decimals."""


def import_coco(
    out: str | Path,
    *,
    annotations: str | Path,
    images: str | Path | None = None,
    hierarchy: str | Path | None = None,
    missing_images: Literal['error', 'drop'] = 'error',
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Summary:
    """Writes an :class:`AnnotationStore` of one COCO JSON file (see :mod:`mmoid.openimages.coco_files`).

    Classes come in the order of ``categories``. ``iscrowd`` becomes ``IsGroupOf``. Boxes are cut at the image's edges;
    those of which nothing is left are dropped. The summary counts both.

    Args:
        out: The store's folder.
        annotations: The file. It gives the sizes of images too.
        images: Folder that the ``file_name`` of images starts from, to note it and to look for the pictures.
        hierarchy: Hierarchy JSON over the ``freebase_id``, ``mid`` or, without these, the names of the categories.
            Without it, the one in the file if :func:`export_coco` wrote it; else no class is above another. Nothing is
            taken from ``supercategory``.
        missing_images: What to do with images that are not in the folder: raise, or leave them out.
        overwrite: Replace a store that is there.
        progress: Callback, see :data:`Progress`.

    Raises:
        AnnotationError: Anything that does not fit, by file and entry.
    """
    out = Path(out)
    require_replaceable(out, overwrite)
    sources = [path for path in (annotations, hierarchy) if path is not None]
    with ThreadPoolExecutor(1) as hashing:
        fingerprints = hashing.submit(lambda: [fingerprint(path) for path in sources])
        file = JsonFile(annotations, progress)
        category_ids, classes = read_categories(file)
        tree, class_graph = _load_hierarchy(file, hierarchy, classes.label_names)
        image_table, label_rows = read_images(file, category_ids, progress)
        flag_rows, boxes = read_annotations(file, image_table['id'], category_ids, progress)
        summary = Summary(box_rows=len(boxes), label_rows=len(label_rows))
        image_table, box_rows, label_rows = _with_pictures(
            image_table, _fractions(flag_rows, boxes, image_table, summary), label_rows, images, missing_images, summary
        )
        del boxes, flag_rows
        progress('writing', 0, 1)
        tables = store_tables(
            image_table['image_id'].combine_chunks(),
            image_table['file_name'].combine_chunks(),
            image_table['width'].to_numpy(),
            image_table['height'].to_numpy(),
            box_rows,
            label_rows,
            classes,
            class_graph,
        )
        summary.count(tables)
        metadata = {
            'hierarchy': tree,
            'sources': fingerprints.result(),
            'image_folder': None if images is None else stored_folder(images, out),
            'summary': asdict(summary),
        }
        write_store(out, tables, metadata, overwrite)
        progress('writing', 1, 1)
    AnnotationStore(out)  # opens, or the caller hears of it now
    return summary


def _load_hierarchy(
    file: JsonFile, hierarchy: str | Path | None, label_names: Sequence[str]
) -> tuple[dict, ClassHierarchy]:
    info = file.value('info') if 'info' in file else None
    source = str(hierarchy) if hierarchy is not None else f'info.{HIERARCHY_KEY}'
    if hierarchy is not None:
        tree = load_tree(hierarchy)
    elif isinstance(info, dict) and HIERARCHY_KEY in info:
        tree = info[HIERARCHY_KEY]
        if not isinstance(tree, dict) or 'LabelName' not in tree:
            raise AnnotationError(f"{file.path}: {source} must be an object with 'LabelName'")
    else:
        tree = {'LabelName': 'root', 'Subcategory': [{'LabelName': name} for name in label_names]}
    known = ClassHierarchy.node_names(tree)
    for i, name in enumerate(label_names):
        if name not in known:
            raise AnnotationError(f'{file.path}: categories[{i}]: class {name!r} is not in the hierarchy {source}')
    return tree, ClassHierarchy(tree, label_names, source)


def _fractions(rows: IndexedRows, boxes: np.ndarray, images: pa.Table, summary: Summary) -> IndexedRows:
    """Rows as :func:`read_boxes` gives them, of the boxes (B, 4) that lie in their images."""
    corners: dict[str, np.ndarray] = {}
    sticks_out: np.ndarray = np.zeros(len(boxes), dtype=bool)
    for axis, size_name in enumerate(('width', 'height')):
        size = images[size_name].to_numpy()[rows.image]
        low, high = boxes[:, axis], boxes[:, axis] + boxes[:, axis + 2]
        sticks_out |= (low < -ROUNDING) | (high > size + ROUNDING)
        corners[COORDINATES[axis]] = np.clip(low / size, 0, 1)
        corners[COORDINATES[axis + 2]] = np.clip(high / size, 0, 1)
    has_area = (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    in_image = (corners['XMin'] < corners['XMax']) & (corners['YMin'] < corners['YMax'])
    keep = has_area & in_image
    summary.drop('boxes without area', (~has_area).sum())
    summary.drop('boxes outside the image', (has_area & ~in_image).sum())
    summary.drop('parts of boxes outside the image', (keep & sticks_out).sum())
    table = rows.table
    for name in COORDINATES:
        table = table.append_column(name, pa.array(corners.pop(name)))
    return IndexedRows(table, rows.image, rows.label).where(keep)


def _with_pictures(
    image_table: pa.Table,
    box_rows: IndexedRows,
    label_rows: IndexedRows,
    images: str | Path | None,
    missing_images: str,
    summary: Summary,
) -> tuple[pa.Table, IndexedRows, IndexedRows]:
    if images is None:
        return image_table, box_rows, label_rows
    if not Path(images).is_dir():
        raise AnnotationError(f'{images}: no such image folder')
    keep = pc.is_in(image_table['file_name'], pa.array(_files_below(str(images)), pa.string())).to_numpy()
    if keep.all():
        return image_table, box_rows, label_rows
    if missing_images == 'error':
        first = image_table['file_name'][int(np.argmin(keep))].as_py()
        raise AnnotationError(
            f'{images}: has no picture of {int((~keep).sum())} of the {len(image_table)} images, first {first!r}; '
            "complete the folder, or leave them out with missing_images='drop'"
        )
    summary.drop('images without a picture', (~keep).sum())
    summary.drop('boxes of images without a picture', (~keep)[box_rows.image].sum())
    summary.drop('image-level labels of images without a picture', (~keep)[label_rows.image].sum())
    return image_table.filter(pa.array(keep)), box_rows.of_images(keep), label_rows.of_images(keep)


def _files_below(folder: str) -> Iterator[str]:
    """Paths of all files below a folder, with ``/``, as COCO files write them."""
    for directory, _, names in os.walk(folder, followlinks=True):
        below = os.path.relpath(directory, folder)
        for name in names:
            yield name if below == '.' else f'{below}/{name}'.replace(os.sep, '/')
