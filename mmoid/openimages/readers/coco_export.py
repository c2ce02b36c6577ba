"""AnnotationStore -> COCO JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.ragged import row_and_position
from mmoid.openimages.readers.coco_rows import FLAG_KEYS, HIERARCHY_KEY, IMAGE_ID_KEY, IMAGE_LABEL_KEYS
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.arrow_folder import map_tables
from mmoid.utils.progress import Progress, no_progress

CHUNK = 1 << 17
"""Images or annotations written at once."""

_ESCAPES = {'\\': '\\\\', '"': '\\"', **{chr(code): f'\\u{code:04x}' for code in range(32)}}  # backslash first


def export_coco(
    store: AnnotationStore, out: str | Path, *, overwrite: bool = False, progress: Progress = no_progress
) -> None:
    """Writes a COCO JSON file that pycocotools and mmdet's ``CocoDataset`` load, one image or annotation on a line.

    Image, category and annotation ids count from 1 in the order of the store. ``bbox`` is in pixels, with all digits.
    ``iscrowd`` is 1 for group-of boxes. :func:`import_coco` makes the same store of the file again, but for the order
    of an image's labels (those present first) and boxes without area (pycocotools cannot match any): it needs
    ``class_hierarchy`` of ``info``, ``freebase_id`` of categories, ``openimages_id`` of images, and the flags of
    annotations, which are left out where unknown. ``is_group_of`` is always there, -1 where unknown, because
    ``iscrowd`` must be 0 or 1.

    Args:
        store: The annotations.
        out: The file.
        overwrite: Replace a file that is there.
        progress: Told in images, then in annotations.

    Raises:
        AnnotationError: A file that may not be replaced; an image-level label whose confidence is neither 1 nor 0,
            which COCO's lists cannot hold.
    """
    out = Path(out)
    if out.is_dir() or (out.exists() and not overwrite):
        raise AnnotationError(f'{out}: exists already; give --overwrite to replace it, or another --out')
    _require_certain_labels(store)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f'.{out.name}.writing-{os.getpid()}')
    try:
        with open(temporary, 'wb') as stream:
            for text in _texts(store, progress):
                stream.write(text)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _require_certain_labels(store: AnnotationStore) -> None:
    confidence = store.image_label_confidence
    certain = (confidence == 0) | (confidence == 1)
    if not certain.all():
        row = int(np.argmin(certain))
        image = store.image_id(int(np.searchsorted(store.label_stop, row, side='right')))
        raise AnnotationError(
            f'{store.path}: image-level label {store.label_names[store.image_label[row]]!r} of image {image!r} has '
            f'confidence {confidence[row]:g}; {" and ".join(IMAGE_LABEL_KEYS)} of COCO files stand for 1 and 0 only. '
            'Make the store from human-verified labels, or without labels'
        )


def _texts(store: AnnotationStore, progress: Progress) -> Iterator[bytes | memoryview]:
    info = {
        'description': 'Open Images annotations, written by mmoid',
        HIERARCHY_KEY: store.metadata['hierarchy'],
    }
    categories = [
        {'id': i, 'name': name, 'freebase_id': label_name}
        for i, (name, label_name) in enumerate(zip(store.class_names, store.label_names), 1)
    ]
    yield f'{{"info": {json.dumps(info)},\n"licenses": [],\n"categories": {json.dumps(categories)},\n'.encode()
    yield b'"images": ['
    names = map_tables(store.path, ('images',))['images']  # the store gives them one by one, or as Python strings
    for first in range(0, store.num_images, CHUNK):
        last = min(store.num_images, first + CHUNK)
        yield _joined(_image_texts(store, names.slice(first, last - first), first, last), follows=first > 0)
        progress('writing images', last, store.num_images)
    yield b'\n],\n"annotations": ['
    for first in range(0, store.num_boxes, CHUNK):
        last = min(store.num_boxes, first + CHUNK)
        yield _joined(_annotation_texts(store, first, last), follows=first > 0)
        progress('writing annotations', last, store.num_boxes)
    yield b'\n]}\n'


def _image_texts(store: AnnotationStore, table: pa.Table, first: int, last: int) -> pa.Array:
    lists = [_label_lists(store, first, last, confidence) for confidence in IMAGE_LABEL_KEYS.values()]
    pieces: list[str | pa.Array] = ['{"id":', _digits(np.arange(first + 1, last + 1))]
    for key, column in (('file_name', 'file_name'), (IMAGE_ID_KEY, 'image_id')):
        pieces += [f',"{key}":"', _escaped(table[column].combine_chunks()), '"']
    for key in ('width', 'height'):
        pieces += [f',"{key}":', _digits(table[key].to_numpy())]
    for key, texts in zip(IMAGE_LABEL_KEYS, lists):
        pieces += [f',"{key}":[', texts, ']']
    return _concatenated([*pieces, '}'])


def _label_lists(store: AnnotationStore, first: int, last: int, confidence: int) -> pa.Array:
    """(last - first,) strings: category ids of the image-level labels of one confidence, separated by commas."""
    stop = store.label_stop[first:last]
    start = int(store.label_stop[first - 1]) if first else 0
    image, _ = row_and_position(np.diff(stop, prepend=start))
    rows = slice(start, start + len(image))
    kept = store.image_label_confidence[rows] == confidence
    lengths = np.bincount(image[kept], minlength=last - first)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = _digits(store.image_label[rows][kept] + 1)
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), ids), ',')


def _annotation_texts(store: AnnotationStore, first: int, last: int) -> pa.Array:
    rows = slice(first, last)
    image = np.searchsorted(store.box_stop, np.arange(first, last), side='right')
    size = np.stack([store.width[image], store.height[image]], axis=1)
    corner, sides = store.box[rows, :2] * size, (store.box[rows, 2:] - store.box[rows, :2]) * size
    bbox = [_digits(column) for column in (*corner.T, *sides.T)]
    pieces: list[str | pa.Array] = ['{"id":', _digits(np.arange(first + 1, last + 1))]
    pieces += [',"image_id":', _digits(image + 1), ',"category_id":', _digits(store.box_label[rows] + 1)]
    for before, texts in zip((',"bbox":[', ',', ',', ','), bbox):
        pieces += [before, texts]
    pieces += ['],"area":', _digits(sides[:, 0] * sides[:, 1])]
    return _concatenated([*pieces, _flag_texts(store, rows), '}'])


def _flag_texts(store: AnnotationStore, rows: slice) -> pa.Array:
    """(last - first,) strings: ``iscrowd``, ``is_group_of`` and the other flags as far as they are known."""
    texts = _choice(
        [f',"iscrowd":{int(value == 1)},"is_group_of":{value}' for value in (-1, 0, 1)], store.is_group_of[rows]
    )
    for name, (key, *_) in FLAG_KEYS.items():
        if name != 'IsGroupOf':
            known = _choice(['', f',"{key}":0', f',"{key}":1'], store.flag(name)[rows])
            texts = _concatenated([texts, known])
    return texts


def _choice(texts: list[str], flags: np.ndarray) -> pa.Array:
    """The three texts for unknown, 0 and 1, by flag (n,)."""
    return pa.array(texts).take(pa.array(flags + 1))


def _digits(values: np.ndarray) -> pa.Array:
    """Numbers as JSON writes them, floating-point ones by as many digits as tell them apart."""
    return pa.array(np.ascontiguousarray(values)).cast(pa.string())


def _escaped(texts: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(texts, r'[\x00-\x1f"\\]')).as_py():
        for character, escape in _ESCAPES.items():
            texts = pc.replace_substring(texts, character, escape)
    return texts


def _concatenated(pieces: list[str | pa.Array]) -> pa.Array:
    return pc.binary_join_element_wise(*pieces, '')


def _joined(rows: pa.Array, follows: bool) -> memoryview:
    """The texts of all rows, each on its line, with commas between them and before the first if it follows others."""
    lines = _concatenated([',\n', rows])
    _, offsets, data = lines.buffers()
    start, stop = np.frombuffer(offsets, dtype=np.int32)[[lines.offset, lines.offset + len(lines)]]
    return memoryview(data)[start + (not follows) : stop]
