"""A few official-format files for tests, small enough to read."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.summary import Summary

CLASSES = ['/m/apple,Apple', '/m/orange,Orange', '/m/fruit,Fruit', '/m/bench1,Bench', '/m/bench2,Bench']
LABEL_NAMES = [line.split(',')[0] for line in CLASSES]


def tree(children, root='/m/root'):
    """A hierarchy as the official JSON has it, from nested dictionaries of names."""
    return {'LabelName': root, 'Subcategory': [tree(below, name) for name, below in children.items()]}


TREE = tree({'/m/fruit': {'/m/apple': {}, '/m/orange': {}}, '/m/bench1': {}, '/m/bench2': {}})
BOXES = """ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf
b1,/m/apple,0.1,0.5,0.2,0.6,0
b1,/m/orange,0.1,0.5,0.2,0.6,0
a0,/m/bench1,0.0,1.0,0.0,0.5,1
b1,/m/apple,0.6,0.9,0.6,0.9,-1
c2,/m/fruit,0.25,0.75,0.25,0.75,0
"""
LABELS = """ImageID,LabelName,Confidence
b1,/m/apple,1
d3,/m/orange,0
b1,/m/bench2,0
"""
SIZES = {'b1': (200, 100), 'a0': (100, 200), 'c2': (64, 64), 'd3': (50, 80)}


def write_files(folder: Path, boxes: str = BOXES, labels: str = LABELS, images: bool = True) -> dict[str, str]:
    """Writes them and returns the arguments of ``convert`` that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'boxes.csv').write_text(boxes)
    (folder / 'labels.csv').write_text(labels)
    (folder / 'classes.csv').write_text('\n'.join(CLASSES) + '\n')
    (folder / 'hierarchy.json').write_text(json.dumps(TREE))
    if images:
        (folder / 'images').mkdir(exist_ok=True)
        for image_id, (width, height) in SIZES.items():
            pixels = np.random.default_rng(len(image_id)).integers(0, 255, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / 'images' / f'{image_id}.jpg')
    names = dict(boxes='boxes.csv', image_labels='labels.csv', classes='classes.csv', hierarchy='hierarchy.json')
    return {key: str(folder / name) for key, name in {**names, 'images': 'images'}.items()}


def save_image(path: Path, size: tuple[int, int], turned: bool = False) -> Path:
    """A black image, ``turned`` by its EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    Image.new('RGB', size).save(path, exif=exif)
    return path


def converted(folder: Path, files: dict[str, object], **options: object) -> tuple[AnnotationStore, Summary]:
    """Converts them, with some arguments changed, to ``folder/store``."""
    summary = convert(folder / 'store', **{**files, **options, 'overwrite': True})
    return AnnotationStore(folder / 'store'), summary
