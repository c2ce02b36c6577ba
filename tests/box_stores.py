"""Stores made from a few rows, for tests that count them by hand."""

import numpy as np

from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.official_files import LABEL_NAMES, SIZES, write_files
from tests.openimages.metric.metric_oracle import iou

APPLE, ORANGE, FRUIT, BENCH, OTHER_BENCH = range(len(LABEL_NAMES))
IDS = tuple(SIZES)
HEADER = 'ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n'
# The store holds all four images, those without boxes for their image-level labels.
LABELS = 'ImageID,LabelName,Confidence\n' + ''.join(f'{image_id},/m/apple,1\n' for image_id in IDS)


def make_store(folder, rows):
    """A store of (image, label, box, is group of) rows, ordered by image; every image must come before its next."""
    convert(folder / 'store', **write_files(folder / 'official', boxes=boxes_csv(rows), labels=LABELS))
    return AnnotationStore(folder / 'store')


def boxes_csv(rows):
    lines = [
        f'{IDS[image]},{LABEL_NAMES[label]},{box[0]},{box[2]},{box[1]},{box[3]},{group}\n'
        for image, label, box, group in rows
    ]
    return HEADER + ''.join(lines)


def random_rows(rng, boxes_per_image=12):
    """Rows of all four images, in which boxes often lie on one another."""
    rows = []
    for image in range(len(IDS)):
        box = (0.2, 0.2, 0.6, 0.6)
        for _ in range(boxes_per_image):
            if rng.random() < 0.4:
                low = rng.uniform(0, 0.6, 2)
                box = (*low.tolist(), *(low + rng.uniform(0.2, 0.4, 2)).tolist())
            box = near(rng, box)
            rows.append((image, int(rng.integers(len(LABEL_NAMES))), box, int(rng.choice([0, 0, 0, -1, 1]))))
    return rows


def near(rng, box):
    """A box a little beside another."""
    return tuple(np.clip(np.array(box) + rng.uniform(-0.02, 0.02, 4), 0, 1).tolist())


def objects_of(rows, same_object_iou):
    """Lists of row indices, one an object: boxes joined by a chain of overlaps. Group-of boxes are none."""
    objects = []
    for index, (image, _, box, group) in enumerate(rows):
        if group == 1:
            continue

        def touches(members, image=image, box=box):
            return any(rows[k][0] == image and iou(rows[k][2], box) >= same_object_iou for k in members)

        touched = [members for members in objects if touches(members)]
        objects = [members for members in objects if members not in touched] + [[*sum(touched, []), index]]
    return objects


def label_sets_of(rows, same_object_iou):
    """The set of labels of every object."""
    return [{rows[k][1] for k in members} for members in objects_of(rows, same_object_iou)]
