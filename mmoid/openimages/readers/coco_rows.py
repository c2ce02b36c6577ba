"""Reading COCO JSON files of any size, with errors that name the entry.

Of the object-detection format (https://cocodataset.org/#format-data) are read: ``categories`` (``id``, ``name``),
``images`` (``id``, ``file_name``, ``width``, ``height``) and ``annotations`` (``image_id``, ``category_id``, ``bbox``,
``iscrowd``); ids may be numbers or strings. Beyond it, where given, what is customary for Open Images: ``freebase_id``
or ``mid`` of categories, ``pos_category_ids`` and ``neg_category_ids`` of images, and the flags of annotations. All
else, ``segmentation`` first of all, is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmoid.openimages.classes import ClassNames, require_unique
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.coco_json_file import JsonFile
from mmoid.openimages.readers.coco_json_rows import JsonRows
from mmoid.openimages.readers.csv_files import UNKNOWN
from mmoid.openimages.store.tables import IndexedRows
from mmoid.utils.progress import Progress, no_progress

FLAG_KEYS = {
    'IsOccluded': ('is_occluded', 'isoccluded'),
    'IsTruncated': ('is_truncated', 'istruncated'),
    'IsGroupOf': ('is_group_of', 'isgroupof', 'iscrowd'),
    'IsDepiction': ('is_depiction', 'isdepiction'),
    'IsInside': ('is_inside', 'isinside'),
}
"""Keys of an annotation by flag. The first that is there counts; it is the one that :func:`export_coco` writes."""

IMAGE_LABEL_KEYS = {'pos_category_ids': 1, 'neg_category_ids': 0}
"""Confidence by the key of an image that lists its classes."""

IMAGE_ID_KEY = 'openimages_id'
"""Key of an image for its ImageID: ``id`` is a number in COCO files."""

HIERARCHY_KEY = 'class_hierarchy'
"""Key within ``info`` for the class hierarchy, in the form of the official JSON."""


def read_categories(file: JsonFile) -> tuple[pa.Array, ClassNames]:
    """Reads the classes, in the order of ``categories``.

    Returns:
        (C,) ids, and (identity, unique display name) by class index. The identity is the ``freebase_id`` or ``mid``,
        else the name. A name that occurs twice gets its identity appended.

    Raises:
        AnnotationError: No categories, one without an id or name, or two of the same id or identity.
    """
    entries = file.value('categories')
    if not isinstance(entries, list) or not entries:
        raise AnnotationError(f'{file.path}: categories must be an array of objects, at least one')
    ids: list[Any] = []
    described: list[tuple[str, str]] = []
    for i, entry in enumerate(entries):
        where = f'{file.path}: categories[{i}]'
        if not isinstance(entry, dict):
            raise AnnotationError(f'{where} = {entry!r} is not an object')
        category_id, name = entry.get('id'), entry.get('name')
        key = next((key for key in ('freebase_id', 'mid') if entry.get(key) is not None), 'name')
        identity = entry.get(key)
        if type(category_id) not in (int, str) or (ids and type(category_id) is not type(ids[0])):
            raise AnnotationError(
                f'{where}.id = {category_id!r} must be a whole number, or a string for all categories'
            )
        if not isinstance(name, str) or not name:
            raise AnnotationError(f'{where}.name = {name!r} must be a string')
        if not isinstance(identity, str) or not identity:
            raise AnnotationError(f'{where}.{key} = {identity!r} must be a string')
        ids.append(category_id)
        described.append((identity, name))
    _require_unique(ids, f'{file.path}: categories', '.id')
    identities = [identity for identity, _ in described]
    require_unique(identities, lambda i: f'{file.path}: categories[{i}]')
    return pa.array(ids), ClassNames(tuple(identities), tuple(name for _, name in described), str(file.path))


def read_images(
    file: JsonFile, category_ids: pa.Array, progress: Progress = no_progress
) -> tuple[pa.Table, IndexedRows]:
    """Reads the images and their image-level labels.

    Args:
        file: The file.
        category_ids: From :func:`read_categories`.
        progress: Told in images.

    Returns:
        Columns ``id`` (int64 or string), ``image_id`` (unique strings), ``file_name``, ``width`` and ``height`` (int32,
        pixels) of the N images; the labels as :func:`read_image_labels` gives them, image after image, those present
        before those absent.

    Raises:
        AnnotationError: An image without id, file name or size, two of the same id or file name, a label that is not
            among the categories.
    """
    rows = file.rows('images')
    ids_of_classes = pa.list_(category_ids.type)
    schema = pa.schema({
        'id': _id_type(rows.sample().get('id')),
        'file_name': pa.string(),
        # Some write 640.0; what is no whole number is refused below.
        'width': pa.float64(),
        'height': pa.float64(),
        IMAGE_ID_KEY: pa.string(),
        **dict.fromkeys(IMAGE_LABEL_KEYS, ids_of_classes),
    })  # fmt: skip
    table = rows.read(schema, optional=(IMAGE_ID_KEY, *IMAGE_LABEL_KEYS), progress=progress).combine_chunks()
    for name in ('width', 'height'):
        values = table[name].to_numpy()
        whole = (values >= 1) & (values <= np.iinfo(np.int32).max) & (values == np.floor(values))
        rows.require(whole, name, 'must be a whole number of pixels, at least 1')
    rows.require(pc.not_equal(table['file_name'], '').to_numpy(), 'file_name', 'must name a picture')
    for name in ('id', 'file_name'):
        if pc.count_distinct(table[name]).as_py() < len(table):
            _require_unique(table[name].to_pylist(), f'{file.path}: images', f'.{name}')
    images = pa.table({
        'id': table['id'],
        'image_id': _image_ids(rows, table),
        'file_name': table['file_name'],
        'width': table['width'].cast(pa.int32()),
        'height': table['height'].cast(pa.int32()),
    })  # fmt: skip
    return images, _image_labels(rows, table, category_ids)


def read_annotations(
    file: JsonFile, image_ids: pa.ChunkedArray, category_ids: pa.Array, progress: Progress = no_progress
) -> tuple[IndexedRows, np.ndarray]:
    """Reads the boxes.

    Args:
        file: The file.
        image_ids: (N,) ``id`` of the images.
        category_ids: (C,) from :func:`read_categories`.
        progress: Told in annotations.

    Returns:
        The five flags (int8: 1, 0 or -1 unknown) with image and class indices, and (B, 4) float64 boxes as they stand
        in the file: left, top, width, height in pixels.

    Raises:
        AnnotationError: An annotation that lacks a field, is of an unknown image or class, or whose box is not four
            finite numbers.
    """
    rows = file.rows('annotations')
    sample = rows.sample()
    flags = {key: pa.bool_() if isinstance(sample.get(key), bool) else pa.int8() for keys in FLAG_KEYS.values()
             for key in keys}  # fmt: skip
    schema = pa.schema({
        'image_id': image_ids.type,
        'category_id': category_ids.type,
        'bbox': pa.list_(pa.float64()),
        **flags,
    })  # fmt: skip
    table = rows.read(schema, optional=list(flags), progress=progress)
    image = _position(table['image_id'], image_ids)
    rows.require(image >= 0, 'image_id', 'is not among the images')
    label = _position(table['category_id'], category_ids)
    rows.require(label >= 0, 'category_id', 'is not among the categories')
    boxes = _four_numbers(rows, table['bbox'])
    for key in flags:
        known = table[key].cast(pa.int8())
        valid = pc.and_(pc.greater_equal(known, UNKNOWN), pc.less_equal(known, 1)).fill_null(True)
        rows.require(valid.to_numpy(), key, 'must be 1, 0 or -1 (unknown)')
    merged = {
        name: pc.coalesce(*(table[key].cast(pa.int8()) for key in keys), pa.scalar(UNKNOWN, pa.int8()))
        for name, keys in FLAG_KEYS.items()
    }
    return IndexedRows(pa.table(merged), image, label), boxes


def _four_numbers(rows: JsonRows, column: pa.ChunkedArray) -> np.ndarray:
    complaint = 'must be four finite numbers: left, top, width and height in pixels'
    rows.require(pc.list_value_length(column).to_numpy() == 4, 'bbox', complaint)
    # A null among the numbers becomes a NaN here.
    boxes = pc.list_flatten(column).to_numpy().reshape(-1, 4)
    rows.require(np.isfinite(boxes).all(axis=1), 'bbox', complaint)
    return boxes


def _image_ids(rows: JsonRows, table: pa.Table) -> pa.ChunkedArray:
    """What the file says, else the shortest part of the file names that tells them apart."""
    given = table[IMAGE_ID_KEY]
    if IMAGE_ID_KEY in rows.sample():
        rows.require(given.is_valid().to_numpy(), IMAGE_ID_KEY, 'must be a string, since the first image has one')
        if pc.count_distinct(given).as_py() < len(table):
            _require_unique(given.to_pylist(), f'{rows.path}: images', f'.{IMAGE_ID_KEY}')
        return given
    # As os.path.splitext does it: no extension is only an extension.
    without_extension = pc.replace_substring_regex(table['file_name'], r'([^/])\.[^./]*$', r'\1')
    stems = pc.replace_substring_regex(without_extension, r'^.*/', '')
    for names in (stems, without_extension):
        if pc.count_distinct(names).as_py() == len(table):
            return names
    return table['file_name']


def _image_labels(rows: JsonRows, table: pa.Table, category_ids: pa.Array) -> IndexedRows:
    images, labels, confidences = [], [], []
    for key, confidence in IMAGE_LABEL_KEYS.items():
        lengths = pc.list_value_length(table[key]).fill_null(0).to_numpy()
        image = np.repeat(np.arange(len(table), dtype=np.int32), lengths)
        label = _position(pc.list_flatten(table[key]), category_ids)
        if (label < 0).any():
            rows.refuse(int(image[np.argmin(label >= 0)]), key, 'holds a class that is not among the categories')
        images.append(image)
        labels.append(label)
        confidences.append(np.full(len(label), confidence, dtype=np.float32))
    by_image = np.argsort(np.concatenate(images), kind='stable')
    return IndexedRows(
        pa.table({'Confidence': np.concatenate(confidences)[by_image]}),
        np.concatenate(images)[by_image],
        np.concatenate(labels)[by_image],
    )


def _position(values: pa.ChunkedArray, names: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(R,) int32 position of every value in ``names``, -1 where it is not there."""
    names = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    return pc.index_in(values, names).fill_null(-1).to_numpy()


def _id_type(sample: Any) -> pa.DataType:
    return pa.string() if isinstance(sample, str) else pa.int64()


def _require_unique(values: Sequence[Any], array: str, what: str) -> None:
    first: dict[Any, int] = {}
    for i, value in enumerate(values):
        if value in first:
            raise AnnotationError(f'{array}[{i}]{what} {value!r} stands in entry {first[value]} already')
        first[value] = i
