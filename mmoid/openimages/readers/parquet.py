"""Parquet files of detection data sets, as data-set hubs have them -> AnnotationStore."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.image_ids import EXTENSIONS
from mmoid.openimages.readers.conversion import pixel_content, pixel_rows, with_cut_boxes, write_converted
from mmoid.openimages.readers.csv_files import open_text
from mmoid.openimages.readers.image_files import with_found_files, with_sizes_of_files
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import MissingImages
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

    ``objects`` is a struct of lists, or a list of structs: ``bbox`` in pixels, and ``category`` or ``label``, as texts
    or as numbers whose names are in the schema's metadata. ``image`` is a struct with ``bytes``, ``path`` or both, or
    one of them; without it ``image_id`` is the file name, with or without extension. Bytes without a name take that of
    the file and the row, such as ``0000-7.jpg``. A class is its name. There are no verified classes.

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
    class_names = None if classes is None else _lines(classes)
    for done, file in enumerate(files):
        table = _read(file)
        first_image.append(len(names))
        counts, box, label, name = _objects(file, table)
        names_here = None if classes else _names_in_schema(table.schema, name)
        class_names = class_names or names_here
        if names_here not in (None, class_names):
            raise AnnotationError(f'{file}: has other class names than {files[0]}; give files of one data set')
        parts.append((np.repeat(len(names) + np.arange(len(table)), counts), box, label))
        names += _image_files(file, table, Path(images))
        progress('reading', done + 1, len(files))
    image, box = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    kinds = {part[2].type for part in parts if len(part[2])}
    if len(kinds) > 1:
        raise AnnotationError(f'{files[0]}: labels are numbers in some files and texts in others')
    kind = next(iter(kinds), pa.int64() if class_names else pa.string())
    given = pa.chunked_array([part[2] for part in parts if len(part[2])], kind).combine_chunks()

    def place(k: int) -> str:
        which = int(np.searchsorted(first_image, image[k], side='right')) - 1
        return f'{files[which]}: row {image[k] - first_image[which]}'

    found, label = _classes(given, class_names, str(files[0]), place)
    corners = np.hstack([box[:, :2], box[:, :2] + box[:, 2:]]) if box_format == 'xywh' else box
    content = pixel_content(files[0], names, pixel_rows(image, label, corners), found, hierarchy, Summary())
    content = with_found_files(content, images, missing_images)
    content = with_sizes_of_files(content, images, missing_images, progress)
    content = with_cut_boxes(content, place)
    return write_converted(out, content, (*files, hierarchy), images, annotated_classes, overwrite, progress)


def _lines(path: str | Path) -> list[str]:
    with open_text(path) as stream:
        names = [line.strip() for line in stream.read().rstrip().splitlines()]
    if '' in names:
        raise AnnotationError(f'{path}:{names.index("") + 1}: a class name is empty')
    return names


def _read(file: str | Path) -> pa.Table:
    try:
        table = pq.read_table(file)
        table.validate(full=True)
        names = table.column_names
    except (OSError, ValueError, pa.ArrowException) as error:
        raise AnnotationError(f'{file}: cannot be read as Parquet ({str(error).splitlines()[0]})') from error
    if 'objects' not in names:
        raise AnnotationError(f'{file}: has no column objects; it has {", ".join(names)}')
    return table.combine_chunks()


def _objects(file: str | Path, table: pa.Table) -> tuple[np.ndarray, np.ndarray, pa.Array, str]:
    """(N,) number of boxes of each row, (B, 4) float64 boxes, (B,) labels as int64 or string, and their name."""
    objects = table['objects'].combine_chunks()
    is_list = pa.types.is_list(objects.type) or pa.types.is_large_list(objects.type)
    struct = objects.type.value_type if is_list else objects.type
    try:
        fields = [field.name for field in struct] if pa.types.is_struct(struct) else []
        name = next((name for name in LABELS if name in fields), None)
        if 'bbox' not in fields or name is None:
            has = ', '.join(fields) or objects.type
            raise AnnotationError(f'{file}: objects needs bbox and one of {", ".join(LABELS)}; it has {has}')
        if is_list:  # of structs
            counts = pc.list_value_length(objects).fill_null(0).to_numpy()
            boxes, labels = (pc.struct_field(objects.flatten(), key) for key in ('bbox', name))
        else:  # a struct of lists
            lists = [pc.struct_field(objects, key) for key in ('bbox', name)]
            counts, label_counts = (pc.list_value_length(values).fill_null(0).to_numpy() for values in lists)
            if (counts != label_counts).any():
                row = int(np.argmax(counts != label_counts))
                raise AnnotationError(f'{file}: row {row}: has {counts[row]} boxes and {label_counts[row]} labels')
            boxes, labels = (values.flatten() for values in lists)
        wrong = pc.list_value_length(boxes).fill_null(0).to_numpy() != 4
        if wrong.any():
            row, box = np.repeat(np.arange(len(counts)), counts)[wrong][0], boxes[int(np.argmax(wrong))].as_py()
            raise AnnotationError(f'{file}: row {row}: bbox {box} must be four numbers')
        values = boxes.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False).reshape(-1, 4)
        is_number = pa.types.is_integer(labels.type) or pa.types.is_floating(labels.type)
        return counts, values, labels.cast(pa.int64() if is_number else pa.string()), name
    except (pa.ArrowException, UnicodeDecodeError) as error:  # the second of a name
        raise AnnotationError(f'{file}: objects cannot be read ({error})') from error


def _names_in_schema(schema: pa.Schema, label: str) -> list[str] | None:
    """Names of numbered classes, which the library ``datasets`` writes into the metadata."""

    def find(node: Any, key: str) -> Any:
        if isinstance(node, dict) and key in node:
            return node[key]
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return next((found for child in children if (found := find(child, key)) is not None), None)

    try:
        described = json.loads((schema.metadata or {}).get(b'huggingface', b'{}'))
    except (ValueError, RecursionError):  # of another tool
        return None
    names = find(find(find(described, 'objects'), label), 'names')
    return list(map(str, names)) if isinstance(names, list) else None


def _classes(
    given: pa.Array, names: list[str] | None, source: str, place: Callable[[int], str]
) -> tuple[ClassNames, np.ndarray]:
    if pa.types.is_integer(given.type):
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
    label = classes.find(given.fill_null(''))
    if (label < 0).any():
        raise AnnotationError(f'{place(int(np.argmin(label)))}: a label is empty')
    return classes, label


def _image_files(file: str | Path, table: pa.Table, folder: Path) -> list[str]:
    """File names of the images, below ``folder``; writes those that are in the table."""
    ids = table['image_id'].to_pylist() if 'image_id' in table.column_names else [None] * len(table)
    cells = table['image'].to_pylist() if 'image' in table.column_names else [None] * len(table)
    names = []
    remedy = 'give another --images, or rename one of two images with this name'
    for row, (image_id, cell) in enumerate(zip(ids, cells)):
        content = cell.get('bytes') if isinstance(cell, dict) else cell
        content = content if isinstance(content, bytes) else b''
        path = cell.get('path') if isinstance(cell, dict) else cell if isinstance(cell, str) else None
        name = str(path or ('' if image_id is None else image_id))
        if not name and not content:
            raise AnnotationError(f'{file}: row {row}: has neither image_id nor the path of an image')
        if content:
            name = Path(name).name or f'{Path(file).stem}-{row}'
            name = name if name.lower().endswith(EXTENSIONS) else name + _extension(content)
            target = folder / name
            if not target.exists():
                with atomic_write(target) as temporary:
                    temporary.write_bytes(content)
            elif target.read_bytes() != content:
                raise AnnotationError(f'{file}: row {row}: {target} is another file; {remedy}')
        names.append(name)
    return names


def _extension(content: bytes) -> str:
    try:
        extension = f'.{Image.open(io.BytesIO(content)).format}'.lower()
    except OSError:  # reported with all others that cannot be read
        extension = ''
    return extension if extension in EXTENSIONS[2:] else '.jpg'  # of JPEG and MPO, too
