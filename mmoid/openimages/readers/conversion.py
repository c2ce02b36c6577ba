"""What the converters share: boxes in pixels become rows of a store, lists of annotated classes become labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmoid.openimages.boxes import has_area
from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy, tree_over
from mmoid.openimages.image_ids import match_images, number_images, require_once
from mmoid.openimages.readers.csv_files import FLAGS, UNKNOWN, class_column, find_column, read_columns, read_header
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.arrow_folder import write_folder
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import NO_LABELS, Content, Rows, fingerprint, image_folder_entry, write_store
from mmoid.utils.progress import Progress


def pixel_content(
    source: str | Path,
    file_names: Sequence[str],
    boxes: Rows,
    classes: ClassNames,
    hierarchy: str | Path | None,
    summary: Summary,
) -> Content:
    """The content of a store from (N,) file names and :func:`pixel_rows`, without sizes and image-level labels.

    Raises:
        AnnotationError: Two images with the same id; as of :func:`tree_over`.
    """
    names = pa.array(file_names, pa.string())
    ids, image, _ = number_images(pa.chunked_array([names]))
    require_once(names, image, source)
    table = pa.table({'image_id': ids, 'file_name': names})
    summary.box_rows = len(boxes)
    return Content(table, boxes, NO_LABELS, classes, tree_over(classes, hierarchy), summary, upright=True)


def pixel_rows(
    image: np.ndarray, label: np.ndarray, box: np.ndarray, flags: Mapping[str, np.ndarray] | None = None
) -> Rows:
    """Boxes for :func:`with_cut_boxes`: (B,) indices, (B, 4) corners in pixels, (B,) int8 flags; the others unknown."""
    unknown = dict.fromkeys(FLAGS, np.full(len(box), UNKNOWN, dtype=np.int8))
    return Rows(image, label, {'box': box, 'row': np.arange(len(box)), **unknown, **(flags or {})})


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


def with_annotated_classes(content: Content, path: str | Path | None) -> Content:
    """Adds image-level labels: a listed class is verified present in an image with a box of it, else absent.

    In a merged data set ("cats drawn here, dogs there") a class without a box is absent only where it was looked for.

    Args:
        content: Images, boxes and labels. Image-level labels that are there stay.
        path: CSV with a column ``LabelName``: classes of all images; or with ``ImageID`` too: of some. None: nothing.
            Rows of other images are dropped and counted.

    Raises:
        AnnotationError: A class that the content does not have (the message names the line), an empty list, or one of
            other images only.
    """
    if path is None:
        return content
    by_image = find_column(read_header(path), 'ImageID') is not None
    columns: dict[str, pa.DataType] = {'LabelName': pa.dictionary(pa.int32(), pa.string())}
    table = read_columns(path, columns | ({'ImageID': pa.string()} if by_image else {}))
    if not len(table):
        raise AnnotationError(f'{path}: lists no classes')
    label = class_column(path, table, content.classes, content.summary, 'list only classes of this data set')
    num_images, num_classes = len(content.images), len(content.classes)
    if by_image:
        image = match_images(table['ImageID'].combine_chunks(), content.images['image_id'].combine_chunks())
        other = image < 0
        first = table['ImageID'][int(np.argmax(other))].as_py()
        if other.all():
            raise AnnotationError(f'{path}: none of its images, first {first!r}, is in this data set')
        content.summary.drop('rows of annotated classes of images that are not in the data set', other.sum(), first)
        image, label = image[~other], label[~other]
    else:
        image, label = np.repeat(np.arange(num_images), len(label)), np.tile(label, num_images)
    hierarchy = ClassHierarchy(content.tree, content.classes.label_names, content.classes.source)
    rows, box_label = hierarchy.expand_up(content.boxes.label)
    present = np.unique(content.boxes.image[rows].astype(np.int64) * num_classes + box_label)
    known = content.labels.image.astype(np.int64) * num_classes + content.labels.label
    new = np.setdiff1d(image.astype(np.int64) * num_classes + label, known)
    confidence = np.concatenate([content.labels.columns['confidence'], np.isin(new, present)])
    labels = Rows(
        np.concatenate([content.labels.image, new // num_classes]).astype(np.int32),
        np.concatenate([content.labels.label, new % num_classes]).astype(np.int32),
        {'confidence': confidence.astype(np.float32)},
    )
    content.summary.change('image-level labels added for annotated classes', len(new))
    return replace(content, labels=labels)


def write_converted(
    path: str | Path,
    content: Content,
    sources: Iterable[str | Path | None],
    images: str | Path | None,
    annotated_classes: str | Path | None,
    overwrite: bool,
    progress: Progress,
) -> Summary:
    """Adds the annotated classes, writes the store with the fingerprints of its files (None: no file), and opens it.

    Raises:
        AnnotationError: No image or class is left, or of all boxes none.
    """
    content = with_annotated_classes(content, annotated_classes)
    given = [source for source in (*sources, annotated_classes) if source is not None]
    source, summary = (given or [content.classes.source])[0], content.summary
    if not len(content.classes):
        raise AnnotationError(f'{source}: has no classes')
    for what, rows, left in (('image', 0, len(content.images)), ('box', summary.box_rows, len(content.boxes))):
        if not left and (rows or what == 'image'):
            dropped = ''.join(f'; {line}' for line in summary.lines())
            raise AnnotationError(
                f'{source}: no {what} is left to make a store of{dropped or "; the file has no rows"}'
            )
    progress('writing', 0, 1)
    path = Path(path)
    entry = None if images is None else image_folder_entry(Path(images), path, path.resolve().parent)
    with ThreadPoolExecutor(1) as hashing, write_folder(path, overwrite) as folder:
        # Files are hashed while the tables are computed.
        metadata = {'sources': hashing.map(fingerprint, given), 'image_folder': entry}
        write_store(folder, content, metadata)
    AnnotationStore(path)  # fail now, not at first use
    progress('writing', 1, 1)
    return content.summary
