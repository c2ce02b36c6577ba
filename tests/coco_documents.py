"""A COCO file for tests, small enough to read, and stores of random annotations that are hard to write down."""

import json

import numpy as np
import pyarrow as pa

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.readers.csv_files import FLAGS
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import Content, Rows, write_store

DOCUMENT = r"""{
"info": {"description": "a \"test\" {set}", "year": 2026},
"annotations": [
    {"id": 7, "image_id": 30, "category_id": 18, "bbox": [10, 20, 30.5, 40], "area": 1220.0, "iscrowd": 0,
     "segmentation": [[10, 20, 40.5, 20, 40.5, 60]]},
    {"id": 9, "image_id": 10, "category_id": 3, "bbox": [0, 0, 100, 50], "area": 5000, "iscrowd": 1,
     "segmentation": {"size": [50, 100], "counts": "P\\`\"]}0[{"}},
    {"id": 8, "image_id": 30, "category_id": 3, "bbox": [1.5, 2.5, 3.5, 4.5], "area": 15.75, "is_inside": 1}],
"licenses": [],
"images": [
    {"id": 30, "file_name": "train/b.jpg", "width": 200, "height": 100, "coco_url": "http://x/b.jpg"},
    {"id": 20, "file_name": "train/é \"q\".jpg", "width": 20, "height": 30, "pos_category_ids": [18, 3],
     "neg_category_ids": []},
    {"id": 10, "file_name": "a.b.jpeg", "width": 100.0, "height": 50, "neg_category_ids": [18]}],
"categories": [
    {"id": 18, "name": "dog", "supercategory": "animal"},
    {"id": 3, "name": "car", "supercategory": "vehicle"}]
}"""


def coco_document():
    """A COCO file as people have them: ids with gaps, sub-folders, masks, and annotations in any order."""
    return json.loads(DOCUMENT)


def write_coco(folder, document, **options):
    path = folder / 'instances.json'
    path.write_text(json.dumps(document, **options))
    return path


def random_store(path, rng, num_images=40, num_classes=7, num_boxes=150, num_labels=60, confidences=(0, 1)):
    """A store of random boxes, at least a pixel each, with flags known and unknown and names hard to write."""
    names = [f'/m/{mark}{i}' for i, mark in zip(range(num_classes), 'é"\\/é"\\')]
    first, *others = [{'LabelName': name} for name in names]
    first |= {'Subcategory': others[:3], 'Part': others[3:4]}
    tree = {'LabelName': 'Entity "0"', 'Subcategory': [first, *others[3:]]}
    size = rng.integers(20, 2000, (num_images, 2))
    image = np.sort(rng.integers(0, num_images, num_boxes))
    low = rng.random((num_boxes, 2)) * (1 - 1 / size[image])
    high = low + (1 - low - 1 / size[image]) * rng.random((num_boxes, 2)) + 1 / size[image]
    high[::5] = 1
    flags = {flag: rng.integers(-1, 2, num_boxes).astype(np.int8) for flag in FLAGS}
    box = np.hstack([low, np.minimum(high, 1)])
    boxes = Rows(image, rng.integers(0, num_classes, num_boxes), {'box': box, **flags})
    confidence = rng.choice(confidences, num_labels).astype(np.float32)
    label_image = np.sort(rng.integers(0, num_images, num_labels))
    labels = Rows(label_image, rng.integers(0, num_classes, num_labels), {'confidence': confidence})
    hard = ['', '"', '\\', '\n', '\t', '\x01', 'é', '🍎', '\\"', '/']
    images = {
        'image_id': [f'{i:04x}{hard[i % len(hard)]}' for i in range(num_images)],
        'file_name': [f'train_{i % 3}/{hard[-1 - i % len(hard)]}{i}.jpg' for i in range(num_images)],
        'width': size[:, 0],
        'height': size[:, 1],
    }
    classes = ClassNames(tuple(names), tuple(f'Class {i} "{name}"' for i, name in enumerate(names)))
    content = Content(pa.table(images), boxes, labels, classes, tree, Summary())
    path.mkdir()
    write_store(path, content, {'sources': [], 'image_folder': None})
    return AnnotationStore(path)


def assert_same(first, second):
    for name in ('label_names', 'class_names', 'num_images'):
        assert getattr(first, name) == getattr(second, name)
    for name in ('width', 'height', 'box_stop', 'box_label', 'label_stop', 'class_box_counts'):
        assert (getattr(first, name) == getattr(second, name)).all(), name
    np.testing.assert_allclose(first.box, second.box, rtol=0, atol=1e-12)
    for flag in FLAGS:
        assert (first.flag(flag) == second.flag(flag)).all(), flag
    for expand in (False, True):
        assert (first.class_images(expand) == second.class_images(expand)).all()
    images, labels = (
        [[(store.image_id(i), store.file_name(i)) for i in range(store.num_images)] for store in (first, second)],
        [sorted(zip(s.image_of_label(), s.image_label, s.image_label_confidence)) for s in (first, second)],
    )
    assert images[0] == images[1] and labels[0] == labels[1]
    assert first.metadata['hierarchy'] == second.metadata['hierarchy']
