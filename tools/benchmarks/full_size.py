"""A generated stand-in for the Open Images training annotations at any size, in the official formats, without images.

The full size is that of the challenge: 1,743,042 images, 12.4 million boxes, 500 classes. The most frequent class has
1.4 million boxes, the rarest has 14; 2 % of the boxes lie on an object that another box labels too; the hierarchy has
three levels. Smaller sizes keep the proportions.
"""

import argparse
import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv
from scipy.optimize import brentq

from mmoid.openimages.readers.official_csv import convert

NUM_IMAGES = 1_743_042
NUM_BOXES = 12_400_000
NUM_CLASSES = 500
HEAD_BOXES = 1_400_000
RAREST_BOXES = 14
CONCURRENT_SHARE = 0.02
CHILDREN = 8
FLAG_SHARES = {'IsOccluded': 0.66, 'IsTruncated': 0.25, 'IsGroupOf': 0.05, 'IsDepiction': 0.05, 'IsInside': 0.001}
IMAGE_ID_STEP = (1 << 63) // NUM_IMAGES
"""Image ids ascend, as in the official files."""

FILES = {'boxes': 'boxes.csv', 'classes': 'classes.csv', 'hierarchy': 'hierarchy.json', 'image_sizes': 'sizes.csv'}


def class_box_counts(num_boxes: int) -> np.ndarray:
    """(500,) boxes of each class, most frequent first, that sum to ``num_boxes``.

    log(count) falls from head to rarest as a power of the rank. The power is chosen to fit the sum.
    """
    scale = num_boxes / NUM_BOXES
    head, rarest = HEAD_BOXES * scale, max(1.0, RAREST_BOXES * min(1, scale))
    rank = np.linspace(1, 0, NUM_CLASSES)
    power = brentq(lambda power: (rarest * (head / rarest) ** rank**power).sum() - num_boxes, 0.1, 50)
    counts = np.round(rarest * (head / rarest) ** rank**power).astype(np.int64)
    counts[1] += num_boxes - counts.sum()  # the rounding error
    return counts


def label_names() -> list[str]:
    """500 MIDs by class index. Class index says nothing about frequency."""
    return [f'/m/0{index:03d}' for index in range(NUM_CLASSES)]


def hierarchy() -> dict[str, Any]:
    """Class i is a child of class i // 8 - 1; the first eight are children of the root."""
    nodes: list[dict[str, Any]] = [{'LabelName': name} for name in label_names()]
    for index in range(CHILDREN, NUM_CLASSES):
        nodes[index // CHILDREN - 1].setdefault('Subcategory', []).append(nodes[index])
    return {'LabelName': '/m/0root', 'Subcategory': nodes[:CHILDREN]}


@contextlib.contextmanager
def annotations(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.Namespace, Path]]:
    """Parses the command line. Gives its options, and its folder, or a temporary one, with the annotations."""
    parser.add_argument('--images', type=int, default=NUM_IMAGES, help='number of images')
    parser.add_argument('--folder', type=Path, help='keep the generated files here, and use them if they exist')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        write_annotations(folder, args.images)
        yield args, folder


def make_store(folder: Path) -> dict[str, int]:
    """Converts the annotations of the folder to ``folder/store``; returns the numbers of images and boxes."""
    files = {name: folder / file for name, file in FILES.items()}
    summary = convert(folder / 'store', **files, overwrite=True)
    return {'images': summary.images, 'boxes': summary.boxes}


def write_annotations(folder: Path, num_images: int) -> None:
    """Writes the files of ``FILES``, boxes with 13 columns as in V4 to V7, unless an earlier call has.

    Also empty files for the 16 images that ``OpenImagesHierarchyDataset`` looks for when it opens.
    """
    done = folder / f'{num_images}.done'
    if done.exists():
        return
    for earlier in folder.glob('*.done'):
        earlier.unlink()
    (folder / 'images').mkdir(parents=True, exist_ok=True)
    (folder / FILES['classes']).write_text(''.join(f'{name},Class {name[4:]}\n' for name in label_names()))
    (folder / FILES['hierarchy']).write_text(json.dumps(hierarchy()))
    rng = np.random.default_rng(0)
    image_ids = pa.array([f'{index * IMAGE_ID_STEP:016x}' for index in range(num_images)])
    sizes = np.array([(1024, 683), (683, 1024), (1024, 768), (768, 1024), (1024, 1024)])[rng.integers(0, 5, num_images)]
    columns = {'image_id': image_ids, 'width': sizes[:, 0], 'height': sizes[:, 1]}
    csv.write_csv(pa.table(columns), folder / FILES['image_sizes'])
    csv.write_csv(_boxes(image_ids, rng), folder / FILES['boxes'], csv.WriteOptions(quoting_style='none'))
    for index in np.linspace(0, num_images - 1, 16).astype(int):
        (folder / 'images' / f'{image_ids[index]}.jpg').touch()
    done.touch()


def _boxes(image_ids: pa.Array, rng: np.random.Generator) -> pa.Table:
    num_images = len(image_ids)
    num_boxes = round(NUM_BOXES / NUM_IMAGES * num_images)
    # One box for every image; the others by a weight of the image, so that some images have very many.
    weights = rng.exponential(size=num_images)
    others = rng.multinomial(num_boxes - num_images, weights / weights.sum())
    image = np.repeat(np.arange(num_images), 1 + others)
    label = rng.permutation(np.repeat(rng.permutation(NUM_CLASSES), class_box_counts(num_boxes)))
    low = rng.uniform(0, 0.7, (num_boxes, 2))
    box = np.round(np.concatenate([low, low + rng.uniform(0.02, 0.3, (num_boxes, 2))], axis=1), 6)
    is_copy = (np.diff(image) == 0) & (np.diff(label) != 0) & (rng.random(num_boxes - 1) < CONCURRENT_SHARE)
    copies = 1 + np.flatnonzero(is_copy)
    box[copies] = box[copies - 1]
    columns = {
        'ImageID': image_ids.take(pa.array(image)),
        'Source': pa.repeat('xclick', num_boxes),
        'LabelName': pa.array(label_names()).take(pa.array(label)),
        'Confidence': np.ones(num_boxes, dtype=np.int8),
    }
    columns |= dict(zip(('XMin', 'YMin', 'XMax', 'YMax'), box.T))
    columns |= {name: (rng.random(num_boxes) < share).astype(np.int8) for name, share in FLAG_SHARES.items()}
    return pa.table(columns)
