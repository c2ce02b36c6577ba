"""Stores of the real Open Images sample that may lie beside a checkout; tests that need one skip where it is not."""

from pathlib import Path

import numpy as np
from pyarrow import csv as arrow_csv

from mmoid.openimages.readers.official_csv import convert
from tests.shared_data import open_images


def sample(folder: Path, split: str = 'train') -> Path:
    """A store of the sample of a split, 3,102 images of 323 classes for training; sizes are invented, files empty."""
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
