"""Cases for the tests of the metric, as rows, and the way from rows to the arrays that the metric takes."""

from __future__ import annotations

from collections import Counter

import numpy as np

from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.metric.average_precision import GroundTruth
from mmoid.openimages.metric.matching import match_detections
from tests.openimages.metric.metric_oracle import Case, ancestors, area, expand, intersection, iou

LEFT, RIGHT, FAR = (0, 0, 10, 10), (2, 0, 12, 10), (50, 50, 60, 60)


def one_image(*detections: tuple[float, tuple], singles=(), groups=(), **options) -> Case:
    boxes = [(0, 0, box, False) for box in singles] + [(0, 0, box, True) for box in groups]
    return Case(1, 3, boxes, detections=[(0, 0, score, box) for score, box in detections], **options)


def random_case(seed: int) -> Case:
    """Boxes on a coarse grid and few scores, so that equal overlaps, duplicates, nesting and equal scores abound."""
    rng = np.random.default_rng(seed)
    images, classes, grid = rng.integers(1, 6), rng.integers(1, 7), rng.integers(3, 9)

    def corners(upright: bool) -> tuple:
        ends = rng.integers(0, grid, size=(2, 2))
        return tuple((np.sort(ends, axis=0) if upright else ends).ravel().tolist())

    def where() -> tuple[int, int]:
        return int(rng.integers(images)), int(rng.integers(classes))

    boxes = [(*where(), corners(True), bool(rng.random() < 0.3)) for _ in range(rng.integers(0, 25))]
    labels = [(*where(), float(rng.choice([0, 0.6, 1]))) for _ in range(rng.integers(0, 10))]
    detections = []
    for _ in range(rng.integers(0, 60)):
        image, label, box = *where(), corners(rng.random() < 0.9)
        if boxes and rng.random() < 0.6:
            image, label, near, _ = boxes[rng.integers(len(boxes))]
            box = tuple((np.array(near) + rng.choice([0, 0, 0, 1, -1], size=4)).tolist())
        score = rng.choice([-0.5, 0, 0.25, 0.5, 0.75, 1]) if seed % 2 else rng.random()
        detections.append((image, label, float(score), box))
    parents = {i: [j for j in range(i) if rng.random() < 0.4] for i in range(classes)} if rng.random() < 0.7 else None
    return Case(
        int(images),
        int(classes),
        boxes,
        labels,
        detections,
        parents,
        verified_only=bool(rng.random() < 0.7),
        group_of_weight=float(rng.choice([0, 0.5, 1])),
        iou_threshold=float(rng.choice([0.3, 0.5, 1])),
        max_detections=int(rng.choice([1, 3, 10000])),
    )


DIFFICULTIES = {
    'a detection that overlaps two boxes alike', 'a box twice', 'a detection twice', 'nested groups',
    'an image without detections', 'an image with labels only', 'an image with nothing', 'a class without ground truth',
    'a detection without area', 'a score of 0', 'equal scores', 'a class with two parents', 'an absent parent',
    'a box without area', 'a group and a single box of one class', 'more detections than are kept',
}  # fmt: skip


def difficulties(case: Case) -> set[str]:
    """Which of :data:`DIFFICULTIES` a case holds, found out plainly."""
    truth = expand(case)[0]
    found = [row for row in case.detections if row[3][0] < row[3][2] and row[3][1] < row[3][3]]
    scores = [(image, label, score) for image, label, score, _ in found]
    kinds = {kind: {row[:2] for row in truth if row[3] == kind} for kind in (False, True)}
    with_boxes, with_labels = ({row[0] for row in rows} for rows in (case.boxes, case.labels))
    with_detections, images = {row[0] for row in case.detections}, set(range(case.num_images))
    parents = case.parents or {}

    def near(row: tuple, group: bool) -> list[tuple]:
        return [other[2] for other in truth if other[:2] == row[:2] and other[3] == group]

    def alike(row: tuple) -> bool:
        overlaps = sorted((iou(row[3], box) for box in near(row, group=False)), reverse=True)[:2]
        return len(overlaps) == 2 and overlaps[0] == overlaps[1] >= case.iou_threshold

    def inside(row: tuple) -> bool:
        others = [box for box in near(row, group=True) if box != row[2]]
        return row[3] and any(area(row[2]) == intersection(row[2], box) > 0 for box in others)

    holds = {
        'a detection that overlaps two boxes alike': any(map(alike, found)),
        'a box twice': len(set(case.boxes)) < len(case.boxes),
        'a detection twice': len({(*row[:2], row[3]) for row in found}) < len(found),
        'nested groups': any(map(inside, truth)),
        'an image without detections': images - with_detections,
        'an image with labels only': with_labels - with_boxes,
        'an image with nothing': images - with_labels - with_boxes,
        'a class without ground truth': set(range(case.num_classes)) - {row[1] for row in truth},
        'a detection without area': len(found) < len(case.detections),
        'a score of 0': any(row[2] == 0 for row in found),
        'equal scores': len(set(scores)) < len(scores),
        'a class with two parents': any(len(above) > 1 for above in parents.values()),
        'an absent parent': any(row[2] == 0 and any(row[1] in ancestors(parents, k) for k in parents)
                                for row in case.labels),
        'a box without area': any(area(row[2]) == 0 for row in truth),
        'a group and a single box of one class': kinds[False] & kinds[True],
        'more detections than are kept': max(Counter(row[:2] for row in found).values(), default=0)
        > case.max_detections,
    }  # fmt: skip
    assert set(holds) == DIFFICULTIES
    return {name for name, there in holds.items() if there}


def hierarchy_of(case: Case) -> ClassHierarchy | None:
    if case.parents is None:
        return None

    def node(label: int) -> dict:
        children = [child for child in range(case.num_classes) if label in case.parents.get(child, ())]
        return {'LabelName': str(label), 'Subcategory': [node(child) for child in children]}

    top = [node(label) for label in range(case.num_classes) if not case.parents.get(label)]
    names = [str(label) for label in range(case.num_classes)]
    return ClassHierarchy({'LabelName': 'root', 'Subcategory': top}, names)


def ground_truth_of(case: Case) -> GroundTruth:
    image, label, box, group = zip(*case.boxes) if case.boxes else ([], [], [], [])
    labels = zip(*case.labels) if case.labels else ([], [], [])
    return GroundTruth.build(
        case.num_images, case.num_classes, image, label, box, group, *labels, hierarchy_of(case), case.verified_only
    )


def detections_of(case: Case) -> list[np.ndarray]:
    columns = zip(*case.detections) if case.detections else ([], [], [], [])
    return [np.array(column) for column in columns]


def settings_of(case: Case) -> dict:
    return dict(
        iou_threshold=case.iou_threshold, group_of_weight=case.group_of_weight, max_detections=case.max_detections
    )


def match(case: Case) -> list[tuple[float, float]]:
    """(score, value) of all matches, the highest score first."""
    matches = match_detections(ground_truth_of(case), *detections_of(case), **settings_of(case))
    return sorted(zip(matches.score.tolist(), matches.value.tolist()), reverse=True)
