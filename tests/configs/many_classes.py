"""A prepared data root with as many classes as asked for: noise in the images, labels by lot."""

import json

import numpy as np
from PIL import Image

from mmoid.synthetic.folder import write_stores

SIZE = (160, 120)
BOXES_PER_IMAGE = 6
CHILDREN = 10  # leaf classes of a parent


def make_root(root, num_classes, num_train=16, num_validation=4):
    """Stores train and validation and concurrent_rates.npz; the last class of every eleven is the parent of ten."""
    names = [f'/m/{i:04}' for i in range(num_classes)]
    families = [names[i : i + CHILDREN + 1] for i in range(0, num_classes, CHILDREN + 1)]
    tree = {
        'LabelName': '/m/root',
        'Subcategory': [
            {'LabelName': family[-1], 'Subcategory': [{'LabelName': name} for name in family[:-1]]}
            for family in families
        ],
    }
    annotations = root / 'annotations'
    annotations.mkdir(parents=True)
    (annotations / 'classes-description.csv').write_text(''.join(f'{name},Class {name[3:]}\n' for name in names))
    (annotations / 'label-hierarchy.json').write_text(json.dumps(tree))
    rng = np.random.default_rng(0)
    for split, count in (('train', num_train), ('validation', num_validation)):
        _write_split(root, split, count, names, rng)
    write_stores(root)
    return root


def _write_split(root, split, count, names, rng):
    folder = root / 'images' / split
    folder.mkdir(parents=True)
    boxes, labels = ['ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf'], ['ImageID,LabelName,Confidence']
    for image in range(count):
        name = f'{split}{image:02}'
        Image.fromarray(rng.integers(0, 255, SIZE[::-1] + (3,), dtype=np.uint8)).save(folder / f'{name}.jpg')
        for _ in range(BOXES_PER_IMAGE):
            x, y = rng.uniform(0, 0.5, 2)
            width, height = rng.uniform(0.3, 0.5, 2)
            for label in rng.choice(len(names), rng.integers(1, 3), replace=False):  # one or two labels on the object
                boxes.append(f'{name},{names[label]},{x},{x + width},{y},{y + height},0')
                labels.append(f'{name},{names[label]},1')
    for name, lines in (('bbox', boxes), ('human-imagelabels', dict.fromkeys(labels))):
        (root / 'annotations' / f'{split}-detection-{name}.csv').write_text('\n'.join(lines) + '\n')
