"""Official CSV files, hierarchy and images -> AnnotationStore."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy, load_tree
from mmoid.openimages.readers.csv_files import (
    line_of_class,
    line_of_row,
    number_rows,
    read_boxes,
    read_classes,
    read_image_labels,
    read_image_sizes,
)
from mmoid.openimages.readers.image_files import find_images, read_sizes, stored_folder
from mmoid.openimages.store.annotation_store import AnnotationStore, write_store
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.openimages.store.summary import Summary, fingerprint
from mmoid.openimages.store.tables import IndexedRows, store_tables
from mmoid.utils.progress import Progress, no_progress


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
    other_classes: Literal['error', 'drop'] = 'error',
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
        other_classes: What to do with rows of classes that ``classes`` does not hold, and with images that have no
            other row: raise, or leave them out. The complete image-level label files of V4-V7 name 20,000 classes
            that have no boxes.
        overwrite: Replace a store that is there.
        progress: Callback, see :data:`Progress`.

    Raises:
        AnnotationError: Anything that does not fit, by file and line.
    """
    if images is None and image_sizes is None:
        raise AnnotationError(
            'images and image_sizes (--images, --image-sizes) are both missing; sizes must come from one of them'
        )
    out = Path(out)
    require_replaceable(out, overwrite)
    sources = [path for path in (boxes, classes, hierarchy, image_labels, image_sizes) if path is not None]
    with ThreadPoolExecutor(1) as hashing:
        fingerprints = hashing.submit(lambda: [fingerprint(path) for path in sources])
        class_names = read_classes(classes)
        class_graph = _load_hierarchy(hierarchy, class_names)
        progress('reading boxes', 0, 1)
        box_table = read_boxes(boxes)
        label_table = _no_labels() if image_labels is None else read_image_labels(image_labels)
        progress('reading boxes', 1, 1)
        summary = Summary(box_rows=len(box_table), label_rows=len(label_table))
        image_ids, box_rows, label_rows = _number_images(box_table, label_table, class_names)
        del box_table, label_table  # the text columns are large, and done with
        if other_classes == 'error':
            _require_known(box_rows, boxes, class_names)
            _require_known(label_rows, image_labels or '', class_names)
        image_ids, box_rows, label_rows = _drop_other_classes(image_ids, box_rows, label_rows, summary)
        file_names, width, height, keep = _locate(image_ids, images, image_sizes, missing_images, progress)
        image_ids, box_rows, label_rows = _drop_images(image_ids, box_rows, label_rows, keep, summary)
        _require_images(image_ids, boxes, summary)
        progress('writing', 0, 1)
        tables = store_tables(image_ids, file_names, width, height, box_rows, label_rows, class_names, class_graph)
        summary.count(tables)
        metadata = {
            'hierarchy': load_tree(hierarchy),
            'sources': fingerprints.result(),
            'image_folder': None if images is None else stored_folder(images, out),
            'summary': asdict(summary),
        }
        write_store(out, tables, metadata, overwrite)
        progress('writing', 1, 1)
    AnnotationStore(out)  # opens, or the caller hears of it now
    return summary


def _load_hierarchy(path: str | Path, classes: ClassNames) -> ClassHierarchy:
    known = ClassHierarchy.node_names(load_tree(path))
    for name in classes.label_names:
        if name not in known:
            line = line_of_class(classes.source, name)
            raise AnnotationError(f'{classes.source}:{line}: class {name!r} is not in the hierarchy {path}')
    return ClassHierarchy.from_json(path, classes.label_names)


def _no_labels() -> pa.Table:
    text = pa.array([], pa.string())
    return pa.table({'ImageID': text, 'LabelName': text.dictionary_encode(), 'Confidence': pa.array([], pa.float32())})


def _number_images(
    box_table: pa.Table, label_table: pa.Table, classes: ClassNames
) -> tuple[pa.Array, IndexedRows, IndexedRows]:
    """Numbers images in the order in which the box file, then the label file, first names them."""
    image_ids, image_of_box = number_rows(box_table['ImageID'])
    ids_of_labels, image_of_label = number_rows(label_table['ImageID'])
    known = pc.index_in(ids_of_labels, image_ids)
    is_new = known.is_null().to_numpy(zero_copy_only=False)
    number = known.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32)
    number[is_new] = len(image_ids) + np.arange(is_new.sum())
    image_ids = pa.concat_arrays([image_ids, ids_of_labels.filter(pa.array(is_new))])
    box_label = classes.find(box_table['LabelName'])
    image_label = classes.find(label_table['LabelName'])
    return (
        image_ids,
        IndexedRows(box_table.drop_columns(['ImageID']), image_of_box, box_label),
        IndexedRows(label_table.drop_columns(['ImageID']), number[image_of_label], image_label),
    )


def _require_known(rows: IndexedRows, path: str | Path, classes: ClassNames) -> None:
    if (rows.label < 0).any():
        row = int(np.argmax(rows.label < 0))
        remedy = (
            "give the classes of this file, or leave such rows out with other_classes='drop' (--other-classes drop)"
        )
        raise classes.unknown(rows.table['LabelName'][row].as_py(), f'{path}:{line_of_row(path, row)}', remedy)


def _drop_other_classes(
    image_ids: pa.Array, box_rows: IndexedRows, label_rows: IndexedRows, summary: Summary
) -> tuple[pa.Array, IndexedRows, IndexedRows]:
    if (box_rows.label >= 0).all() and (label_rows.label >= 0).all():
        return image_ids, box_rows, label_rows
    summary.drop('boxes of other classes', (box_rows.label < 0).sum())
    summary.drop('image-level labels of other classes', (label_rows.label < 0).sum())
    box_rows, label_rows = box_rows.where(box_rows.label >= 0), label_rows.where(label_rows.label >= 0)
    keep: np.ndarray = np.zeros(len(image_ids), dtype=bool)
    keep[box_rows.image] = keep[label_rows.image] = True
    summary.drop('images with rows of other classes only', (~keep).sum())
    return image_ids.filter(pa.array(keep)), box_rows.of_images(keep), label_rows.of_images(keep)


def _drop_images(
    image_ids: pa.Array, box_rows: IndexedRows, label_rows: IndexedRows, keep: np.ndarray, summary: Summary
) -> tuple[pa.Array, IndexedRows, IndexedRows]:
    if keep.all():
        return image_ids, box_rows, label_rows
    summary.drop('images without a picture', (~keep).sum())
    summary.drop('boxes of images without a picture', (~keep)[box_rows.image].sum())
    summary.drop('image-level labels of images without a picture', (~keep)[label_rows.image].sum())
    return image_ids.filter(pa.array(keep)), box_rows.of_images(keep), label_rows.of_images(keep)


def _require_images(image_ids: pa.Array, boxes: str | Path, summary: Summary) -> None:
    if len(image_ids) == 0:
        dropped = ''.join(f'; dropped: {count:,} {what}' for what, count in summary.dropped.items())
        raise AnnotationError(f'{boxes}: no image is left to make a store of{dropped or "; the file has no rows"}')


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
                f"{first!r}; complete the folder, or leave them out with missing_images='drop' (--missing-images drop)"
            )
        file_names = pa.array(list(found.values()), pa.string()).take(row.drop_null())
    if image_sizes is None:
        assert images is not None
        width, height = read_sizes(images, file_names.to_pylist(), progress)
    else:
        width, height = _sizes_from_csv(image_sizes, image_ids.filter(pa.array(keep)))
    return file_names, width, height, keep


def _sizes_from_csv(path: str | Path, image_ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    table = _without_repetitions(path, read_image_sizes(path))
    row = pc.index_in(image_ids, table['image_id'].combine_chunks())
    if row.null_count:
        first = image_ids[pc.index(pc.is_null(row), True).as_py()].as_py()
        raise AnnotationError(f'{path}: has no size of {row.null_count} annotated images, first {first!r}')
    rows = row.to_numpy()
    return table['width'].to_numpy()[rows], table['height'].to_numpy()[rows]


def _without_repetitions(path: str | Path, sizes: pa.Table) -> pa.Table:
    """Each image once; the same line twice is no harm, two sizes of one image are."""
    if pc.count_distinct(sizes['image_id']).as_py() == len(sizes):
        return sizes
    once = sizes.group_by(sizes.column_names).aggregate([])
    if pc.count_distinct(once['image_id']).as_py() < len(once):
        first: dict[str, tuple[int, int]] = {}
        for row, (image_id, *size) in enumerate(zip(*(sizes[name].to_pylist() for name in sizes.column_names))):
            if first.setdefault(image_id, tuple(size)) != tuple(size):
                raise AnnotationError(
                    f'{path}:{line_of_row(path, row)}: image {image_id!r} is {size[0]} x {size[1]} here and '
                    f'{first[image_id][0]} x {first[image_id][1]} before'
                )
    return once
