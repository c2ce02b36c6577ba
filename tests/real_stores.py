"""Stores of the real Open Images sample that may lie beside a checkout; tests that need one skip where it is not."""

import csv
from pathlib import Path

import numpy as np
from pyarrow import csv as arrow_csv

from mmoid.openimages.readers.official_csv import convert
from tests.shared_data import open_images


def train_sample(folder: Path) -> Path:
    """3,102 training images and 323 classes in their natural distribution."""
    return sample(folder, 'train')


def sample(folder: Path, split: str) -> Path:
    """A store of the sample of a split; sizes are invented, files empty."""
    boxes = open_images(f'annotations/{split}-sample-challenge-bbox.csv')
    image_ids = arrow_csv.read_csv(str(boxes))['ImageID'].unique().to_pylist()
    kinds = np.random.default_rng(0).integers(0, 3, len(image_ids))
    images = folder / 'images'
    images.mkdir(parents=True)
    with open(folder / 'sizes.csv', 'w') as stream:
        stream.write('image_id,width,height\n')
        for image_id, kind in zip(image_ids, kinds):
            stream.write(f'{image_id},{("1024,683", "683,1024", "1024,1024")[kind]}\n')
            (images / f'{image_id.removesuffix(".jpg")}.jpg').touch()
    convert(
        folder / 'store',
        boxes=boxes,
        classes=open_images('classes/challenge-class-descriptions-500.csv'),
        hierarchy=open_images('hierarchy/bbox_labels_500_hierarchy.json'),
        images=images,
        image_sizes=folder / 'sizes.csv',
    )
    return folder / 'store'


def fruit(folder: Path, split: str = 'train') -> Path:
    """196 photographs of apples and oranges, upright and lying."""
    folder.mkdir(parents=True)
    with open(open_images('classes/class-descriptions-boxable.csv')) as stream:
        rows = [row for row in csv.reader(stream) if row[1] in ('Apple', 'Orange', 'Fruit', 'Food')]
    with open(folder / 'classes.csv', 'w', newline='') as stream:
        csv.writer(stream).writerows(rows)
    convert(
        folder / 'store',
        boxes=open_images(f'fruit/{split}-annotations-bbox.csv'),
        classes=folder / 'classes.csv',
        hierarchy=open_images('hierarchy/bbox_labels_600_hierarchy.json'),
        images=open_images(f'fruit/{split}'),
    )
    return folder / 'store'
