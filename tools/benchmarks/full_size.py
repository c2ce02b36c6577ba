"""A stand-in of the Open Images training annotations at any size, for benchmarks: no pictures, the official formats.

Its shape is that of the challenge: 1,743,042 images, 12.4 million boxes, 500 classes of which the most frequent has 1.4
million boxes and the rarest 14, 2 % of the boxes on an object that another label names too, a class graph of three
levels. Smaller sizes keep the proportions.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

NUM_IMAGES = 1_743_042
NUM_BOXES = 12_400_000
NUM_CLASSES = 500
HEAD_BOXES = 1_400_000
RAREST_BOXES = 14
CONCURRENT_SHARE = 0.02
CHILDREN = 8
FILES = {'boxes': 'boxes.csv', 'classes': 'classes.csv', 'hierarchy': 'hierarchy.json', 'image_sizes': 'sizes.csv'}


def class_box_counts(num_boxes: int) -> np.ndarray:
    """(500,) boxes of each class, most frequent first, that sum to ``num_boxes``.

    log(count) falls from head to rarest as a power of the rank; the power is what makes the sum fit.
    """
    scale = num_boxes / NUM_BOXES
    head, rarest = HEAD_BOXES * scale, max(1.0, RAREST_BOXES * min(1, scale))
    rank = np.linspace(1, 0, NUM_CLASSES)
    low, high = 0.1, 50.0
    for _ in range(60):
        power = (low + high) / 2
        counts = rarest * (head / rarest) ** (rank**power)
        low, high = (power, high) if counts.sum() > num_boxes else (low, power)
    counts = np.maximum(1, np.round(counts)).astype(np.int64)
    counts[1] += num_boxes - counts.sum()  # what rounding left
    return counts


def label_names() -> list[str]:
    """500 MIDs by class index. Class index says nothing about frequency."""
    return [f'/m/0{index:03d}' for index in range(NUM_CLASSES)]


def hierarchy() -> dict:
    """The class graph: class i hangs below class i // 8 - 1, the first eight below the root."""
    nodes = [{'LabelName': name} for name in label_names()]
    for index in range(CHILDREN, NUM_CLASSES):
        nodes[index // CHILDREN - 1].setdefault('Subcategory', []).append(nodes[index])
    return {'LabelName': '/m/0root', 'Subcategory': nodes[:CHILDREN]}


def write_annotations(folder: Path, num_images: int = NUM_IMAGES, seed: int = 0) -> dict[str, Path]:
    """Writes ``boxes.csv`` (13 columns, as V4-V7), ``classes.csv``, ``hierarchy.json`` and ``sizes.csv``.

    Returns:
        The files by what they are; ``convert`` takes them as keyword arguments.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / file for name, file in FILES.items()}
    files['classes'].write_text(''.join(f'{name},Class {name[4:]}\n' for name in label_names()))
    files['hierarchy'].write_text(json.dumps(hierarchy()))
    image_ids = _image_ids(num_images)
    sizes = np.array([(1024, 683), (683, 1024), (1024, 768), (768, 1024), (1024, 1024)])[rng.integers(0, 5, num_images)]
    csv.write_csv(
        pa.table({'image_id': image_ids, 'width': sizes[:, 0], 'height': sizes[:, 1]}), str(files['image_sizes'])
    )
    _write_boxes(files['boxes'], image_ids, rng)
    return files


def _image_ids(num_images: int) -> pa.Array:
    """16 hexadecimal digits in ascending order, as the official files have them."""
    digits = np.frombuffer(b'0123456789abcdef', dtype='S1')
    number = np.arange(1, num_images + 1, dtype=np.uint64) * np.uint64((1 << 63) // (num_images + 1) * 2)
    shifts = np.arange(60, -1, -4, dtype=np.uint64)
    text = digits[((number[:, None] >> shifts) & np.uint64(15)).astype(np.intp)]
    return pa.array(np.ascontiguousarray(text).view('S16').ravel()).cast(pa.string())


def _write_boxes(path: Path, image_ids: pa.Array, rng: np.random.Generator) -> None:
    num_images = len(image_ids)
    num_boxes = round(NUM_BOXES / NUM_IMAGES * num_images)
    # One box for every image; the others by a weight of the image, so that some images hold very many.
    weights = np.cumsum(rng.exponential(size=num_images))
    others = np.searchsorted(weights, rng.random(num_boxes - num_images) * weights[-1], side='right')
    image = np.sort(np.concatenate([np.arange(num_images), np.minimum(others, num_images - 1)]))
    counts = class_box_counts(num_boxes)
    label = rng.permutation(np.repeat(rng.permutation(NUM_CLASSES), counts))
    low = rng.uniform(0, 0.7, (num_boxes, 2))
    box = np.concatenate([low, low + rng.uniform(0.02, 0.3, (num_boxes, 2))], axis=1)
    copies = 1 + np.flatnonzero(
        (np.diff(image) == 0) & (np.diff(label) != 0) & (rng.random(num_boxes - 1) < CONCURRENT_SHARE)
    )
    box[copies] = box[copies - 1]
    box = np.round(box, 6)
    flags = {name: (rng.random(num_boxes) < share).astype(np.int8) for name, share in
             (('IsOccluded', 0.66), ('IsTruncated', 0.25), ('IsGroupOf', 0.05), ('IsDepiction', 0.05),
              ('IsInside', 0.001))}  # fmt: skip
    names = pa.array(label_names())
    rows = 1_000_000
    schema = None
    for start in range(0, num_boxes, rows):
        part = slice(start, start + rows)
        table = pa.table({
            'ImageID': pc.take(image_ids, pa.array(image[part])),
            'Source': pa.array(['xclick'] * len(image[part])),
            'LabelName': pc.take(names, pa.array(label[part])),
            'Confidence': np.ones(len(image[part]), dtype=np.int8),
            **{name: box[part, k] for k, name in ((0, 'XMin'), (2, 'XMax'), (1, 'YMin'), (3, 'YMax'))},
            **{name: values[part] for name, values in flags.items()},
        })  # fmt: skip
        if schema is None:
            schema = table.schema
            writer = csv.CSVWriter(str(path), schema, write_options=csv.WriteOptions(quoting_style='none'))
        writer.write_table(table)
    writer.close()
