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
from mmoid.openimages.hierarchy import tree_over
from mmoid.openimages.image_ids import EXTENSIONS, match_images_once, number_images
from mmoid.openimages.readers.conversion import write_converted
from mmoid.openimages.readers.csv_files import (
    COORDINATES,
    FLAGS,
    class_column,
    line_of_row,
    read_boxes,
    read_classes,
    read_image_labels,
    read_image_sizes,
)
from mmoid.openimages.readers.image_files import images_below, read_sizes, with_found_files, with_sizes_of_files
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import NO_BOXES, NO_LABELS, Content, MissingImages, Rows
from mmoid.utils.progress import Progress, no_progress

IMAGES_CHECKED = 16


def convert(
    out: str | Path,
    *,
    classes: str | Path,
    hierarchy: str | Path | None = None,
    boxes: str | Path | None = None,
    image_labels: str | Path | None = None,
    images: str | Path | None = None,
    image_sizes: str | Path | None = None,
    missing_images: MissingImages = 'error',
    other_classes: Literal['error', 'drop'] = 'error',
    annotated_classes: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Summary:
    """Writes an :class:`AnnotationStore` of one split.

    Args:
        out: The store's folder.
        classes: Class descriptions CSV (see :func:`read_classes`).
        hierarchy: Hierarchy JSON; without it, no class has ancestors.
        boxes: Box CSV (see :func:`read_boxes`). Without it and ``image_labels``, the store has all images of
            ``images``, or else of ``image_sizes``, to predict on.
        image_labels: CSV of human-verified image-level labels. Images that only have these are kept for the metric.
        images: Image folder. Needed unless ``image_sizes`` is given.
        image_sizes: CSV of image sizes; without it they are read from the headers of the image files.
        missing_images: Images without a readable file: raise, or drop them.
        other_classes: Rows of other classes, and images with no other row: raise, or drop them. The complete
            image-level label files of V4-V7 name 20,000 classes.
        annotated_classes: CSV of the classes that were drawn in all images, or in some; see
            :func:`~mmoid.openimages.readers.conversion.with_annotated_classes`.
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
    summary = Summary()
    names = read_classes(classes, summary)
    tree = tree_over(names, hierarchy)
    sizes: pa.Table = None if image_sizes is None else read_image_sizes(image_sizes)
    remedy = "give the classes of this file, or drop such rows with other_classes='drop' (--other-classes drop)"
    remedy = remedy if other_classes == 'error' else ''
    if boxes is None and image_labels is None:
        ids = sizes['image_id'] if images is None else pa.chunked_array([images_below(images, Summary())])
        image_ids, _, given = number_images(ids, summary)
        box_rows, label_rows = NO_BOXES, NO_LABELS
    else:
        image_ids, given, box_rows, label_rows = read_rows(boxes, image_labels, names, summary, remedy, progress)
    found = pa.table({'image_id': image_ids, 'file_name': _file_names(given)})
    content = _without_other_classes(Content(found, box_rows, label_rows, names, tree, summary))
    if images is not None:
        content = with_found_files(content, images, missing_images)
    if image_sizes is not None:
        content = content.with_sizes(_sizes_of(image_sizes, sizes, content.images['image_id'].combine_chunks()))
        if images is not None:
            _require_sizes_of_files(image_sizes, content, images)
    else:
        assert images is not None
        content = with_sizes_of_files(content, images, missing_images, progress)
    sources = (boxes, classes, hierarchy, image_labels, image_sizes)
    return write_converted(out, content, sources, images, annotated_classes, overwrite, progress)


def read_rows(
    boxes: str | Path | None,
    image_labels: str | Path | None,
    classes: ClassNames,
    summary: Summary,
    remedy: str = '',
    progress: Progress = no_progress,
) -> tuple[pa.Array, pa.Array, Rows, Rows]:
    """Reads a box CSV, a CSV of image-level labels, or both. Images come in the order of their first row.

    Equal scores of an evaluation have the order of the images, so files and their store give the same figures.

    Returns:
        (N,) image ids, their longest spellings, and the rows. Without a ``remedy``, those of other classes have class
        -1; else they are an AnnotationError.
    """
    box_rows, label_rows = NO_BOXES, NO_LABELS
    ids: list[pa.Array] = []
    if boxes is not None:
        table = read_boxes(boxes, summary, progress)
        box = np.empty((len(table), 4))
        for k, name in enumerate(COORDINATES):
            box[:, k] = table[name]
        columns = {'box': box, **{name: table[name].to_numpy() for name in FLAGS}}
        box_rows = Rows(np.empty(0), class_column(boxes, table, classes, summary, remedy), columns)
        ids += table['ImageID'].chunks
    if image_labels is not None:
        table = read_image_labels(image_labels, summary, progress)
        columns = {'confidence': table['Confidence'].to_numpy()}
        label_rows = Rows(np.empty(0), class_column(image_labels, table, classes, summary, remedy), columns)
        ids += table['ImageID'].chunks
    image_ids, image, given = number_images(pa.chunked_array(ids, pa.string()), summary)
    box_rows = replace(box_rows, image=image[: len(box_rows)])
    label_rows = replace(label_rows, image=image[len(box_rows) :])
    if len(box_rows) and not np.isin(label_rows.image, box_rows.image).any():
        reason = 'image-level labels, none of them of an image with boxes; check that both files are of one split'
        summary.change(reason, len(label_rows), Path(image_labels or '').name)
    return image_ids, given, box_rows, label_rows


def _require_sizes_of_files(path: str | Path, content: Content, images: str | Path) -> None:
    """Raises an AnnotationError if one of a few images, spread over the set, has another size in its file."""
    chosen = np.unique(np.linspace(0, len(content.images) - 1, IMAGES_CHECKED).astype(np.int64))[: len(content.images)]
    names = content.images['file_name'].take(pa.array(chosen)).to_pylist()
    size, faults = read_sizes(images, names)
    for k, (name, wanted) in enumerate(zip(names, content.sizes[chosen])):
        if k not in faults and (size[k] != wanted).any():
            here, there = (f'{width} x {height}' for width, height in (wanted, size[k]))
            raise AnnotationError(
                f'{path}: image {name!r} is {here}, its file in {images} is {there}; correct the sizes'
            )


def _file_names(given: pa.Array) -> pa.Array:
    """Paths below the image folder, from (N,) distinct ids in their longest spelling."""
    short = pc.replace_substring_regex(given, r'^(?:\w[\w+.-]*:|[/\\]).*[/\\]', '')  # of an address or absolute path
    names = short if len(pc.unique(short)) == len(given) else given
    has_extension = pc.match_substring_regex(names, rf'(?i)({"|".join(EXTENSIONS)})$'.replace('.', r'\.'))
    return pc.if_else(has_extension, names, pc.binary_join_element_wise(names, '.jpg', ''))


def _without_other_classes(content: Content) -> Content:
    known_boxes, known_labels = content.boxes.label >= 0, content.labels.label >= 0
    if known_boxes.all() and known_labels.all():
        return content
    boxes, labels = content.boxes.take(known_boxes), content.labels.take(known_labels)
    keep: np.ndarray = np.zeros(len(content.images), dtype=bool)
    keep[boxes.image] = keep[labels.image] = True
    for what, image in (
        ('boxes of other classes', content.boxes.image[~known_boxes]),
        ('image-level labels of other classes', content.labels.image[~known_labels]),
        ('images with rows of other classes only', np.flatnonzero(~keep)),
    ):
        first = content.images['image_id'][int(image[0])].as_py() if len(image) else ''
        content.summary.drop(what, len(image), first)
    return replace(content, boxes=boxes, labels=labels).with_images(keep)


def _sizes_of(path: str | Path, table: pa.Table, image_ids: pa.Array) -> np.ndarray:
    """(N, 2) int32 width and height of images from the rows of a CSV file."""
    names, row_image, _ = number_images(table['image_id'])
    size = np.stack([table[name].to_numpy() for name in ('width', 'height')], axis=1)
    first = np.unique(row_image, return_index=True)[1]
    differs = (size != size[first[row_image]]).any(axis=1)
    if differs.any():
        row = int(np.argmax(differs))
        here, before = (f'{width} x {height}' for width, height in (size[row], size[first[row_image[row]]]))
        name = names[row_image[row]].as_py()
        raise AnnotationError(f'{path}:{line_of_row(path, row)}: image {name!r} is {here} here and {before} before')
    found = match_images_once(image_ids, names, str(path))
    if (found < 0).any():
        missing = image_ids.filter(pa.array(found < 0))
        raise AnnotationError(f'{path}: has no size of {len(missing)} annotated images, first {missing[0].as_py()!r}')
    return size[first[found]]
