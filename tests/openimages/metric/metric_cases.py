"""Cases for the tests of the metric, as rows, and their conversion to the arrays that the metric takes."""

from pathlib import Path

import numpy as np

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.metric.annotations import Annotations
from mmoid.openimages.metric.average_precision import average_precision, count_positives
from mmoid.openimages.metric.matching import GroundTruth, match_detections
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.official_files import tree
from tests.openimages.metric.metric_oracle import Case


def store_of_case(case: Path, folder: Path, width: int = 1024, height: int = 512) -> AnnotationStore:
    """The store of an official case; sizes are invented."""
    lines = [line for name in ('boxes', 'labels') for line in (case / f'{name}.csv').read_text().splitlines()[1:]]
    sizes = [f'{image_id},{width},{height}\n' for image_id in sorted({line.split(',')[0] for line in lines})]
    (folder / 'sizes.csv').write_text('image_id,width,height\n' + ''.join(sizes))
    convert(
        folder / 'store',
        boxes=case / 'boxes.csv',
        image_labels=case / 'labels.csv',
        classes=case / 'classes.csv',
        hierarchy=case / 'hierarchy.json',
        image_sizes=folder / 'sizes.csv',
    )
    return AnnotationStore(folder / 'store')


def random_case(seed: int) -> Case:
    """Boxes on a coarse grid and few scores, for many equal overlaps, duplicates, nested boxes and equal scores."""
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
        if rng.random() < 0.02:
            box = (*box[:3], np.nan)
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


def annotations_of(case: Case) -> Annotations:
    names = [str(label) for label in range(case.num_classes)]

    def below(label: int) -> dict:
        children = [child for child in range(case.num_classes) if label in case.parents.get(child, ())]
        return {str(child): below(child) for child in children}

    hierarchy = None
    if case.parents is not None:
        top = {str(label): below(label) for label in range(case.num_classes) if not case.parents.get(label)}
        hierarchy = ClassHierarchy(tree(top), names)
    image, label, box, group = zip(*case.boxes) if case.boxes else ([], [], [], [])
    labels = zip(*case.labels) if case.labels else ([], [], [])
    return make_annotations(case.num_images, names, hierarchy, image, label, box, group, *labels)


def make_annotations(
    num_images, names, hierarchy, image, label, box, group, label_image=(), label_class=(), confidence=()
) -> Annotations:
    """From lists."""
    return Annotations(
        image_ids=range(num_images),
        classes=ClassNames(names),
        hierarchy=hierarchy,
        image=np.array(image, dtype=np.int32),
        label=np.array(label, dtype=np.int32),
        box=np.array(box, dtype=np.float64).reshape(-1, 4),
        is_group_of=np.array(group, dtype=bool),
        label_image=np.array(label_image, dtype=np.int32),
        label_class=np.array(label_class, dtype=np.int32),
        label_confidence=np.array(confidence, dtype=np.float32),
    )


def ground_truth_of(case: Case) -> GroundTruth:
    return GroundTruth.build(annotations_of(case), case.parents is not None, case.verified_only)


def detections_of(case: Case) -> list[np.ndarray]:
    columns = zip(*case.detections) if case.detections else ([], [], [], [])
    return [np.array(column) for column in columns]


def match(case: Case) -> list[tuple[float, float]]:
    """(score, value) of all matches, the highest score first."""
    matches = _matches(case)
    return sorted(zip(matches.score.tolist(), matches.value.tolist()), reverse=True)


def ap_and_positives(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """AP and positives of each class."""
    positives = count_positives(ground_truth_of(case), case.group_of_weight)
    return average_precision(_matches(case), positives), positives


def _matches(case: Case):
    rules = (case.iou_threshold, case.group_of_weight, case.max_detections)
    return match_detections(ground_truth_of(case), *detections_of(case), *rules)
