"""Recall of objects with several labels, against going through images, objects and detections one by one."""

import math
from collections import defaultdict

import numpy as np
import pytest

from mmoid.openimages.metric.annotations import annotations_of_store, read_annotations
from mmoid.openimages.metric.evaluator import Evaluator, Protocol
from mmoid.openimages.metric.result import annotated_objects, multi_label_recall
from mmoid.openimages.predictions.prediction_store import Detections
from tests.box_stores import APPLE, FRUIT, IDS, ORANGE, boxes_csv, make_store, near, objects_of, random_rows
from tests.official_files import LABEL_NAMES, write_files
from tests.openimages.metric.metric_oracle import first_best, iou

ANCESTORS = {APPLE: [FRUIT], ORANGE: [FRUIT]}


def pairs_of(rows):
    """(image, label, rows of the object) of every label of every object that has several."""
    objects = [members for members in objects_of(rows, 0.9) if len({rows[k][1] for k in members}) > 1]
    return len(objects), [
        (rows[members[0]][0], label, members) for members in objects for label in {rows[k][1] for k in members}
    ]


def found_by(rows, detections, expand):
    """(row, label) of the expanded ground-truth boxes that are found: metric-spec 2 and 3, all classes verified."""
    truth = defaultdict(list)
    for k, (image, label, box, group) in enumerate(rows):
        if group != 1:
            for copy in [label, *(ANCESTORS.get(label, []) if expand else [])]:
                truth[image, copy].append((k, box))
    found = set()
    for image, label, _, box in sorted(detections, key=lambda row: -row[2]):
        candidates = truth[image, label]
        best, overlap = first_best([iou(box, other) for _, other in candidates])
        if overlap >= 0.5:
            found.add((candidates[best][0], label))
    return found


def random_detections(rng, rows):
    detections = []
    for image, label, box, _ in rows:
        if rng.random() < 0.6:
            label = label if rng.random() < 0.7 else int(rng.integers(len(LABEL_NAMES)))
            detections.append((image, label, float(rng.random()), near(rng, box)))
    return detections


def recall_of(folder, rows, detections, protocol='challenge', images=None):
    annotations = annotations_of_store(make_store(folder, rows))
    evaluator = Evaluator(annotations, Protocol(protocol))
    index = np.array([annotations.image_ids.index(name) for name in IDS])
    image, *columns = (np.array(column) for column in zip(*detections))
    found = evaluator.match(Detections(index[image], *columns)).found
    chosen = None if images is None else index[images]
    return multi_label_recall(annotations, annotated_objects(annotations), evaluator.ground_truth, found, chosen)


@pytest.mark.parametrize('images', [None, [1, 3], []])
@pytest.mark.parametrize('protocol', ['challenge', 'v2'])
@pytest.mark.parametrize('seed', range(6))
def test_the_recall_is_that_of_going_through_objects_one_by_one(tmp_path, seed, protocol, images):
    rng = np.random.default_rng(seed)
    rows = random_rows(rng)
    detections = random_detections(rng, rows)
    chosen = range(4) if images is None else images
    num_objects = pairs_of([row for row in rows if row[0] in chosen])[0]
    pairs = [pair for pair in pairs_of(rows)[1] if pair[0] in chosen]
    found = found_by(rows, detections, protocol == 'challenge')
    hits = [any((k, label) in found for k in members) for _, label, members in pairs]
    result = recall_of(tmp_path, rows, detections, protocol, None if images is None else np.array(images, dtype=int))
    assert (result.objects, result.pairs, result.found) == (num_objects, len(pairs), sum(hits))
    assert num_objects > 0 or images is not None
    assert result.recall == (sum(hits) / len(hits) if hits else pytest.approx(math.nan, nan_ok=True))


def test_the_order_of_rows_in_a_file_does_not_matter(tmp_path):
    rng = np.random.default_rng(7)
    rows = random_rows(rng)
    results = []
    for order in (range(len(rows)), rng.permutation(len(rows))):
        text = boxes_csv(rows[k] for k in order)
        files = write_files(tmp_path / str(len(results)), boxes=text, images=False)
        annotations = read_annotations(files['boxes'], files['classes'], files['hierarchy'])
        ground_truth = Evaluator(annotations).ground_truth
        row = np.array(order)[ground_truth.source]
        found = np.flatnonzero((row % 3 == 0) & ~ground_truth.is_group_of)
        results.append(multi_label_recall(annotations, annotated_objects(annotations), ground_truth, found))
    assert results[0] == results[1] and 0 < results[0].found < results[0].pairs
