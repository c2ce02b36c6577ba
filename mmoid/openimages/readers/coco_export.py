"""AnnotationStore -> COCO JSON file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.coco import FLAG_KEYS, HIERARCHY_KEY, IMAGE_LABEL_KEYS
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.atomic import atomic_write
from mmoid.utils.progress import Progress, no_progress

CHUNK = 1 << 16  # images or annotations written at once


def export_coco(
    store: AnnotationStore, out: str | Path, *, overwrite: bool = False, progress: Progress = no_progress
) -> None:
    """Writes a COCO JSON file that pycocotools and mmdet's ``CocoDataset`` load, one image or annotation on a line.

    Ids count from 1 in the order of the store. ``iscrowd`` is 1 for group-of boxes. :func:`import_coco` makes the same
    store from the file, except for the order of an image's labels and for boxes without area.

    Raises:
        OSError: A file that may not be replaced.
        AnnotationError: An image-level label whose confidence is neither 1 nor 0, which COCO's lists cannot hold.
    """
    out = Path(out)
    if out.is_dir() or (out.exists() and not overwrite):
        raise FileExistsError(f'{out}: exists already; give --overwrite to replace it, or another --out')
    certain = np.isin(store.image_label_confidence, list(IMAGE_LABEL_KEYS.values()))
    if not certain.all():
        value = store.image_label_confidence[~certain][0]
        raise AnnotationError(
            f'{store.path}: an image-level label has confidence {value:g}; COCO files hold 1 and 0 only'
        )
    info = {'description': 'Open Images annotations, written by mmoid', HIERARCHY_KEY: store.metadata['hierarchy']}
    names = enumerate(zip(store.class_names, store.label_names), 1)
    categories = [{'id': i, 'name': name, 'freebase_id': mid} for i, (name, mid) in names]
    encode = msgspec.json.encode
    with atomic_write(out) as temporary, open(temporary, 'wb') as stream:
        stream.write(b'{"info": %b,\n"licenses": [],\n' % encode(info))
        stream.write(b'"categories": %b,\n"images": [' % encode(categories))
        for what, count, rows, end in (
            ('images', store.num_images, _images, b'\n],\n"annotations": ['),
            ('annotations', store.num_boxes, _annotations, b'\n]}\n'),
        ):
            for first in range(0, count, CHUNK):
                last = min(count, first + CHUNK)
                stream.write((b',\n' if first else b'\n') + b',\n'.join(map(encode, rows(store, first, last))))
                progress(f'writing {what}', last, count)
            stream.write(end)


def _images(store: AnnotationStore, first: int, last: int) -> Iterator[dict[str, Any]]:
    for image in range(first, last):
        rows = store.labels_of_image(image)
        category, confidence = store.image_label[rows] + 1, store.image_label_confidence[rows]
        yield {
            'id': image + 1,
            'file_name': store.file_name(image),
            'openimages_id': store.image_id(image),
            'width': int(store.width[image]),
            'height': int(store.height[image]),
            **{key: category[confidence == value].tolist() for key, value in IMAGE_LABEL_KEYS.items()},
        }


def _annotations(store: AnnotationStore, first: int, last: int) -> Iterator[dict[str, Any]]:
    rows = slice(first, last)
    image = np.searchsorted(store.box_stop, np.arange(first, last), side='right')
    size = np.stack([store.width[image], store.height[image]], axis=1)
    corner, sides = store.box[rows, :2] * size, (store.box[rows, 2:] - store.box[rows, :2]) * size
    group_of = store.is_group_of[rows]
    columns = {
        'id': np.arange(first, last) + 1,
        'image_id': image + 1,
        'category_id': store.box_label[rows] + 1,
        'bbox': np.hstack([corner, sides]),
        'area': sides[:, 0] * sides[:, 1],
        'iscrowd': (group_of == 1).astype(np.int8),
        'is_group_of': group_of,
    }
    others = {keys[0]: store.flag(name)[rows] for name, keys in FLAG_KEYS.items() if name != 'IsGroupOf'}
    known = zip(*(flag.tolist() for flag in others.values()))
    for values, flags in zip(zip(*(column.tolist() for column in columns.values())), known):
        yield dict(zip(columns, values)) | {key: flag for key, flag in zip(others, flags) if flag >= 0}
