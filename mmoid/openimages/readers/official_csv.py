"""Official CSV files, hierarchy and images -> AnnotationStore."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy, load_tree
from mmoid.openimages.readers.csv_files import (
    COORDINATES,
    FLAGS,
    line_of_row,
    number_rows,
    read_boxes,
    read_classes,
    read_image_labels,
    read_image_sizes,
)
from mmoid.openimages.readers.image_files import find_images, read_sizes
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.openimages.store.writing import Content, Rows, Summary, write_converted
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
        image_labels: CSV of human-verified image-level labels. Images that only have these are kept for the metric.
        images: Image folder. Needed unless ``image_sizes`` is given.
        image_sizes: CSV of image sizes; without it they are read from the headers of the image files.
        missing_images: Annotated images without a file: raise, or drop them.
        other_classes: Rows of other classes, and images with no other row: raise, or drop them. The complete
            image-level label files of V4-V7 name 20,000 classes.
        overwrite: Replace a store that is there.
        progress: Callback.

    Raises:
        AnnotationError: A bad file or row. The message names the file and line.
        ValueError: Neither ``images`` nor ``image_sizes``.
        OSError: ``out`` exists or cannot be written.
    """
    if images is None and image_sizes is None:
        raise ValueError('images, image_sizes: one of them is needed for the sizes (--images, --image-sizes)')
    require_replaceable(out, overwrite)
    names = read_classes(classes)
    tree = load_tree(hierarchy)
    ClassHierarchy(tree, names.label_names, str(hierarchy))  # fail now, before the long work
    progress('reading boxes', 0, 1)
    content = _read(boxes, image_labels, names, tree, other_classes)
    progress('reading boxes', 1, 1)
    if images is not None:
        content = _with_file_names(content, images, missing_images)
    if len(content.images) == 0:
        dropped = ''.join(f'; dropped: {count:,} {what}' for what, count in content.summary.dropped.items())
        raise AnnotationError(f'{boxes}: no image is left to make a store of{dropped or "; the file has no rows"}')
    if image_sizes is not None:
        width, height = _sizes_from_csv(image_sizes, content.images['image_id'])
    else:
        assert images is not None
        width, height = read_sizes(images, content.images['file_name'].to_pylist(), progress)
    sized = content.images.append_column('width', pa.array(width)).append_column('height', pa.array(height))
    sources = (boxes, classes, hierarchy, image_labels, image_sizes)
    progress('writing', 0, 1)
    summary = write_converted(Path(out), replace(content, images=sized), sources, images, overwrite)
    progress('writing', 1, 1)
    return summary


def _read(
    boxes: str | Path, image_labels: str | Path | None, classes: ClassNames, tree: dict, other_classes: str
) -> Content:
    """Images without sizes, in the order of their first row in the box file, then in the label file."""
    box_table = read_boxes(boxes)
    label_table = box_table.slice(0, 0) if image_labels is None else read_image_labels(image_labels)
    ids = box_table['ImageID'].chunks + label_table['ImageID'].chunks
    image_ids, image = number_rows(pa.chunked_array(ids, pa.string()))
    box = np.stack([box_table[name].to_numpy() for name in COORDINATES], axis=1)
    flags = {name: box_table[name].to_numpy() for name in FLAGS}
    confidence = np.empty(0, dtype=np.float32) if image_labels is None else label_table['Confidence'].to_numpy()
    box_label, image_label = classes.find(box_table['LabelName']), classes.find(label_table['LabelName'])
    if other_classes == 'error':
        _require_known(box_label, box_table, boxes, classes)
        _require_known(image_label, label_table, image_labels or '', classes)
    box_rows = Rows(image[: len(box)], box_label, {'box': box, **flags})
    label_rows = Rows(image[len(box) :], image_label, {'confidence': confidence})
    file_names = pc.binary_join_element_wise(image_ids, '.jpg', '')
    table = pa.table({'image_id': image_ids, 'file_name': file_names})
    summary = Summary(box_rows=len(box_table), label_rows=len(label_table))
    return _without_other_classes(Content(table, box_rows, label_rows, classes, tree, summary))


def _require_known(label: np.ndarray, table: pa.Table, path: str | Path, classes: ClassNames) -> None:
    if (label < 0).any():
        row = int(np.argmax(label < 0))
        remedy = "give the classes of this file, or drop such rows with other_classes='drop' (--other-classes drop)"
        raise classes.unknown(table['LabelName'][row].as_py(), f'{path}:{line_of_row(path, row)}', remedy)


def _without_other_classes(content: Content) -> Content:
    known_boxes, known_labels = content.boxes.label >= 0, content.labels.label >= 0
    if known_boxes.all() and known_labels.all():
        return content
    boxes, labels = content.boxes.take(known_boxes), content.labels.take(known_labels)
    keep: np.ndarray = np.zeros(len(content.images), dtype=bool)
    keep[boxes.image] = keep[labels.image] = True
    content.summary.drop('boxes of other classes', (~known_boxes).sum())
    content.summary.drop('image-level labels of other classes', (~known_labels).sum())
    content.summary.drop('images with rows of other classes only', (~keep).sum())
    return replace(content, boxes=boxes, labels=labels).with_images(keep)


def _with_file_names(content: Content, images: str | Path, missing_images: Literal['error', 'drop']) -> Content:
    found = find_images(images)
    # Some lists give the id with its extension.
    stems = pc.replace_substring_regex(content.images['image_id'], r'(?i)\.(jpg|jpeg|png)$', '')
    row = pc.index_in(stems, pa.array(list(found), pa.string()))
    file_names = pa.array(list(found.values()), pa.string()).take(row.combine_chunks())
    content = replace(content, images=content.images.set_column(1, 'file_name', file_names))
    return content.with_files(row.is_valid().to_numpy(), images, missing_images)


def _sizes_from_csv(path: str | Path, image_ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    table = read_image_sizes(path)
    names = table['image_id'].combine_chunks()
    width, height = table['width'].to_numpy(), table['height'].to_numpy()
    first = pc.index_in(names, names).to_numpy()  # of the same image
    differs = (width != width[first]) | (height != height[first])
    if differs.any():
        row = int(np.argmax(differs))
        raise AnnotationError(
            f'{path}:{line_of_row(path, row)}: image {names[row].as_py()!r} is {width[row]} x {height[row]} here and '
            f'{width[first[row]]} x {height[first[row]]} before'
        )
    found = pc.index_in(image_ids, names)
    if found.null_count:
        missing = image_ids.filter(pc.is_null(found))
        raise AnnotationError(f'{path}: has no size of {len(missing)} annotated images, first {missing[0].as_py()!r}')
    return width[found.to_numpy()], height[found.to_numpy()]
