"""Parquet files of detection data sets, as data-set hubs have them -> AnnotationStore."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import tree_over
from mmoid.openimages.readers.annotated_classes import with_annotated_classes
from mmoid.openimages.readers.image_files import with_sizes_of_files
from mmoid.openimages.readers.pixel_boxes import image_table, rows_of_pixels
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import NO_BOXES, NO_LABELS, Content, MissingImages, write_converted
from mmoid.utils.atomic import atomic_write
from mmoid.utils.progress import Progress, no_progress

LABELS = ('category', 'categories', 'category_id', 'label', 'labels')


def import_parquet(
    out: str | Path,
    *,
    files: Sequence[str | Path],
    images: str | Path,
    box_format: Literal['xywh', 'xyxy'] = 'xywh',
    classes: str | Path | None = None,
    hierarchy: str | Path | None = None,
    missing_images: MissingImages = 'error',
    annotated_classes: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Summary:
    """Writes an :class:`AnnotationStore` of the rows of Parquet files, one image each.

    ``objects`` is a struct of lists: ``bbox`` in pixels, and ``category`` or ``label``, as texts or as numbers whose
    names are in the schema's metadata. ``image`` is a struct with ``bytes``, ``path`` or both; without it ``image_id``
    is the file name. A class is its name. There are no verified classes.

    ``files`` are those of one split, in order. ``images`` is the folder of the images; those that come as bytes are
    written there first. ``box_format`` is ``xywh`` as in COCO, or ``xyxy``. ``classes`` is a text file with the names
    of numbered classes, a line each, if the files do not have them. The other arguments are those of
    :func:`~mmoid.openimages.readers.official_csv.convert`.

    Raises:
        AnnotationError: A file or row that cannot be used. The message names the file and the row, from 0.
        OSError: ``out`` exists or cannot be written.
    """
    require_replaceable(out, overwrite)
    Path(images).mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    parts: list[tuple[np.ndarray, np.ndarray, pa.Array]] = []
    first_image: list[int] = []
    class_names = None if classes is None else Path(classes).read_text('utf-8').splitlines()
    for done, file in enumerate(files):
        table = _read(file)
        class_names = class_names or _names_in_schema(table.schema)
        first_image.append(len(names))
        counts, box, label = _objects(file, table)
        parts.append((np.repeat(len(names) + np.arange(len(table)), counts), box, label))
        names += _image_files(file, table, Path(images))
        progress('reading', done + 1, len(files))
    image, box = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    given = pa.chunked_array([part[2] for part in parts]).combine_chunks()

    def place(k: int) -> str:
        which = int(np.searchsorted(first_image, image[k], side='right')) - 1
        return f'{files[which]}: row {image[k] - first_image[which]}'

    found, label = _classes(given, class_names, str(files[0]), place)
    summary = Summary()
    table = image_table(names, files[0])
    content = Content(table, NO_BOXES, NO_LABELS, found, tree_over(found, hierarchy), summary)
    content = with_sizes_of_files(content, images, missing_images, progress)
    index = pc.index_in(table['file_name'], content.images['file_name']).fill_null(-1).to_numpy()[image]
    kept = np.flatnonzero(index >= 0)
    corners = np.hstack([box[:, :2], box[:, :2] + box[:, 2:]]) if box_format == 'xywh' else box
    size = np.stack([content.images[name].to_numpy() for name in ('width', 'height')], axis=1)
    rows = rows_of_pixels(
        index[kept].astype(np.int32), label[kept], corners[kept], size, {}, summary, lambda k: place(kept[k])
    )
    content = with_annotated_classes(replace(content, boxes=rows), annotated_classes)
    return write_converted(out, content, (*files, hierarchy, annotated_classes), images, overwrite, progress)


def _read(file: str | Path) -> pa.Table:
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise AnnotationError(f'{file}: cannot be read as Parquet ({str(error).splitlines()[0]})') from error
    if 'objects' not in table.column_names or not pa.types.is_struct(table.schema.field('objects').type):
        raise AnnotationError(f'{file}: has no struct objects; it has {", ".join(table.column_names)}')
    return table.combine_chunks()


def _objects(file: str | Path, table: pa.Table) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """(N,) number of boxes of each row, (B, 4) float64 boxes, (B,) labels."""
    objects = table['objects'].combine_chunks()
    fields = [field.name for field in objects.type]
    name = next((name for name in LABELS if name in fields), None)
    if 'bbox' not in fields or name is None:
        raise AnnotationError(f'{file}: objects needs bbox and one of {", ".join(LABELS)}; it has {", ".join(fields)}')
    boxes, labels = objects.field('bbox'), objects.field(name)
    counts, label_counts = (pc.list_value_length(lists).fill_null(0).to_numpy() for lists in (boxes, labels))
    flat = boxes.flatten()
    lengths = pc.list_value_length(flat).fill_null(0).to_numpy()
    if (counts != label_counts).any():
        row = int(np.argmax(counts != label_counts))
        raise AnnotationError(f'{file}: row {row}: has {counts[row]} boxes and {label_counts[row]} labels')
    values = flat.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False) if len(flat) else np.empty(0)
    row_of_box = np.repeat(np.arange(len(counts)), counts)
    wrong = lengths != 4
    if not wrong.any():
        wrong = ~np.isfinite(values.reshape(-1, 4)).all(axis=1)
    if wrong.any():
        box = flat[int(np.argmax(wrong))].as_py()
        raise AnnotationError(f'{file}: row {row_of_box[np.argmax(wrong)]}: bbox {box} must be four numbers')
    return counts, values.reshape(-1, 4), labels.flatten()


def _names_in_schema(schema: pa.Schema) -> list[str] | None:
    """Names of numbered classes, which the library ``datasets`` writes into the metadata."""

    def find(node: Any) -> list[str] | None:
        if isinstance(node, dict) and isinstance(node.get('names'), list):
            return list(map(str, node['names']))
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return next((names for child in children if (names := find(child))), None)

    text = (schema.metadata or {}).get(b'huggingface', b'{}')
    features = json.loads(text).get('info', {}).get('features', {})
    return find(features.get('objects'))


def _classes(
    given: pa.Array, names: list[str] | None, source: str, place: Callable[[int], str]
) -> tuple[ClassNames, np.ndarray]:
    if pa.types.is_integer(given.type):
        names = [name for name in names or () if name]
        label = given.fill_null(-1).to_numpy()
        if not names:
            raise AnnotationError(f'{source}: labels are numbers without names; give the names with --classes')
        outside = (label < 0) | (label >= len(names))
        if outside.any():
            k = int(np.argmax(outside))
            raise AnnotationError(f'{place(k)}: label {given[k].as_py()} is not one of the {len(names)} classes')
        return ClassNames(tuple(names), (), source), label.astype(np.int32)
    mids = tuple(sorted(name for name in pc.unique(given).to_pylist() if name))
    classes = ClassNames(mids, (), source)
    label = classes.find(given)
    if (label < 0).any():
        raise AnnotationError(f'{place(int(np.argmin(label)))}: a label is empty')
    return classes, label


def _image_files(file: str | Path, table: pa.Table, folder: Path) -> list[str]:
    """File names of the images, below ``folder``; writes those that are in the table."""
    ids = table['image_id'].to_pylist() if 'image_id' in table.column_names else [None] * len(table)
    cells = table['image'].to_pylist() if 'image' in table.column_names else [{}] * len(table)
    names = []
    for row, (image_id, cell) in enumerate(zip(ids, cells)):
        cell = cell or {}
        name = cell.get('path') or (None if image_id is None else str(image_id))
        if name is None:
            raise AnnotationError(f'{file}: row {row}: has neither image_id nor the path of an image')
        if cell.get('bytes'):
            name = Path(name).name
            try:
                extension = (Image.open(io.BytesIO(cell['bytes'])).format or '').lower().replace('jpeg', 'jpg')
            except OSError as error:
                raise AnnotationError(f'{file}: row {row}: image {name!r} cannot be read ({error})') from error
            name = name if Path(name).suffix else f'{name}.{extension}'
            if not (folder / name).exists():
                with atomic_write(folder / name) as temporary:
                    temporary.write_bytes(cell['bytes'])
        names.append(name)
    return names
