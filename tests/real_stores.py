"""Real data that may lie beside a checkout, and stores of it; tests that need it skip where it is not."""

from pathlib import Path

import numpy as np
import pytest
from pyarrow import csv as arrow_csv

from mmoid.openimages.readers.official_csv import convert


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


SHARED = Path(__file__).resolve().parents[2] / 'shared' / 'data'

METRIC_CASES = sorted(path.name for path in (SHARED / 'metric-cases').glob('case_*')) or ['absent']


def metric_case(name: str) -> Path:
    """Folder of an official case; skips the test where it is not there."""
    return _required(SHARED / 'metric-cases' / name)


def open_images(path: str) -> Path:
    """A file or folder of the Open Images sample; skips the test where it is not there."""
    return _required(SHARED / 'openimages' / path)


def _required(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f'needs {path}')
    return path
