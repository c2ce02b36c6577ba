"""Labels that a model predicts on the annotated objects."""

import numpy as np
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions.prediction_store import PredictionStore, write_predictions
from mmoid.openimages.statistics.confusion import count_confusion
from tests.box_stores import (
    APPLE,
    BENCH,
    FRUIT,
    IDS,
    ORANGE,
    OTHER_BENCH,
    iou,
    label_sets_of,
    make_store,
    near,
    objects_of,
    random_rows,
)
from tests.official_files import LABEL_NAMES

WHOLE, LEFT, RIGHT = (0, 0, 1, 1), (0, 0, 0.5, 1), (0.5, 0, 1, 1)


def make_predictions(folder, detections, image_ids=IDS, label_names=LABEL_NAMES):
    """Predictions of (image, label, score, box) rows, ordered by image."""
    image = np.array([row[0] for row in detections], dtype=int)
    write_predictions(
        folder / 'predictions',
        image_ids=image_ids,
        detections_per_image=np.bincount(image, minlength=len(image_ids)),
        label=np.array([row[1] for row in detections], dtype=int),
        score=np.array([row[2] for row in detections], dtype=float),
        box=np.array([row[3] for row in detections], dtype=float).reshape(-1, 4),
        label_names=label_names,
        class_names=label_names,
        overwrite=True,
    )
    return PredictionStore(folder / 'predictions')


def pairs_of(matrix):
    return {(int(i), int(j)): int(matrix[i, j]) for i, j in zip(*np.nonzero(matrix))}


def test_a_wrong_label_is_a_confusion(tmp_path):
    store = make_store(tmp_path, [(0, APPLE, LEFT, 0), (0, BENCH, RIGHT, 0), (1, APPLE, LEFT, 0)])
    found = count_confusion(store, make_predictions(tmp_path, [(0, ORANGE, 0.9, LEFT), (0, BENCH, 0.9, RIGHT)]))
    assert found.objects.tolist() == [2, 0, 0, 1, 0]
    assert pairs_of(found.confused) == {(APPLE, ORANGE): 1}
    assert pairs_of(found.predicted) == {(APPLE, ORANGE): 1, (BENCH, BENCH): 1}
    assert found.rates[APPLE, ORANGE] == found.concurrent_rates[APPLE, ORANGE] == 0.5
    assert found.concurrent_rates[BENCH, BENCH] == 0  # found, not concurrent
    assert found.top_pairs(3) == [(APPLE, ORANGE, 1)]


@pytest.mark.parametrize(('respect_hierarchy', 'confused'), [(True, {}), (False, {(APPLE, FRUIT): 1})])
def test_an_ancestor_is_a_confusion_only_without_the_hierarchy(tmp_path, respect_hierarchy, confused):
    store = make_store(tmp_path, [(0, APPLE, LEFT, 0)])
    predictions = make_predictions(tmp_path, [(0, FRUIT, 0.9, LEFT)])
    found = count_confusion(store, predictions, respect_hierarchy=respect_hierarchy)
    assert pairs_of(found.confused) == confused
    assert pairs_of(found.predicted) == {(APPLE, FRUIT): 1}


def test_a_finer_label_than_the_annotated_one_is_counted(tmp_path):
    store = make_store(tmp_path, [(0, FRUIT, LEFT, 0)])
    found = count_confusion(store, make_predictions(tmp_path, [(0, APPLE, 0.9, LEFT)]))
    assert pairs_of(found.confused) == {(FRUIT, APPLE): 1}


def test_a_detection_prefers_an_object_that_supports_it_over_a_greater_overlap(tmp_path):
    near = (0, 0, 0.45, 1)  # IoU 0.9 with LEFT; a box of its own at 0.95
    store = make_store(tmp_path, [(0, APPLE, LEFT, 0), (0, BENCH, near, 0)])
    found = count_confusion(store, make_predictions(tmp_path, [(0, BENCH, 0.9, LEFT)]), same_object_iou=0.95)
    assert pairs_of(found.predicted) == {(BENCH, BENCH): 1}
    found = count_confusion(store, make_predictions(tmp_path, [(0, ORANGE, 0.9, LEFT)]), same_object_iou=0.95)
    assert pairs_of(found.predicted) == {(APPLE, ORANGE): 1}


def test_low_scores_group_of_boxes_and_images_without_predictions_do_not_count(tmp_path):
    store = make_store(tmp_path, [(0, APPLE, LEFT, 0), (0, BENCH, RIGHT, 1), (1, APPLE, WHOLE, 0)])
    rows = [(0, ORANGE, 0.4, LEFT), (0, ORANGE, 0.9, RIGHT)]
    found = count_confusion(store, make_predictions(tmp_path, rows, image_ids=('b1',)))
    assert found.objects.tolist() == [1, 0, 0, 0, 0] and not found.predicted.any()
    found = count_confusion(store, make_predictions(tmp_path, rows, image_ids=('b1',)), score_threshold=0.4)
    assert pairs_of(found.confused) == {(APPLE, ORANGE): 1}


def test_classes_are_matched_by_mid_and_images_by_id(tmp_path):
    store = make_store(tmp_path, [(0, APPLE, LEFT, 0), (2, BENCH, LEFT, 0)])
    turned = LABEL_NAMES[::-1]
    rows = [(0, turned.index('/m/bench2'), 0.9, LEFT), (1, turned.index('/m/orange'), 0.9, LEFT)]
    found = count_confusion(store, make_predictions(tmp_path, rows, image_ids=('c2', 'b1'), label_names=turned))
    assert pairs_of(found.confused) == {(APPLE, ORANGE): 1, (BENCH, OTHER_BENCH): 1}


def test_predictions_of_other_classes_or_images_raise(tmp_path):
    store = make_store(tmp_path, [(0, APPLE, LEFT, 0)])
    with pytest.raises(AnnotationError, match=r"predictions: '/m/pear' is not a class of"):
        count_confusion(store, make_predictions(tmp_path, [], label_names=[*LABEL_NAMES, '/m/pear']))
    with pytest.raises(AnnotationError, match=r"predictions: class '/m/bench2' of .*store is missing"):
        count_confusion(store, make_predictions(tmp_path, [], label_names=LABEL_NAMES[:-1]))
    with pytest.raises(AnnotationError, match=r"2 of the 3 images predicted are not in .*store, first 'e4'"):
        count_confusion(store, make_predictions(tmp_path, [], image_ids=['b1', 'e4', 'f5']))


def confusion_by_hand(store, boxes, detections, respect_hierarchy):
    objects, label_sets = objects_of(boxes, 0.8), label_sets_of(boxes, 0.8)
    supported = [set(labels) for labels in label_sets]
    if respect_hierarchy:
        supported = [{int(a) for i in labels for a in (i, *store.hierarchy.ancestors(i))} for labels in label_sets]
    object_of_row = {row: k for k, members in enumerate(objects) for row in members}
    predicted_labels = [set() for _ in objects]
    for image, label, score, box in detections:
        candidates = []
        for row, k in object_of_row.items():
            overlap = iou(boxes[row][2], box)
            if boxes[row][0] == image and overlap >= 0.5:
                candidates.append((label in supported[k], overlap, k))
        if score >= 0.5 and candidates:
            predicted_labels[max(candidates)[2]].add(label)
    objects_of_class, predicted, confused = np.zeros(5), np.zeros((5, 5)), np.zeros((5, 5))
    for k, labels in enumerate(label_sets):
        for i in labels:
            objects_of_class[i] += 1
            for j in predicted_labels[k]:
                predicted[i, j] += 1
                confused[i, j] += j not in supported[k]
    return objects_of_class, predicted, confused


@pytest.mark.parametrize('respect_hierarchy', [True, False])
@pytest.mark.parametrize('seed', range(2))
def test_counts_are_those_of_a_loop_over_objects(tmp_path, seed, respect_hierarchy):
    rng = np.random.default_rng(seed)
    boxes = random_rows(rng)
    detections = []
    for image, _, box, _ in boxes * 3:
        detections.append((image, int(rng.integers(5)), float(np.float32(rng.random())), near(rng, box)))
    detections.sort()
    store = make_store(tmp_path, boxes)
    predictions = make_predictions(tmp_path, detections)
    found = count_confusion(store, predictions, same_object_iou=0.8, respect_hierarchy=respect_hierarchy)
    objects, predicted, confused = confusion_by_hand(store, boxes, detections, respect_hierarchy)
    assert confused.sum() > 20 and predicted.trace() > 5
    assert (found.objects == objects).all()
    assert (found.predicted == predicted).all()
    assert (found.confused == confused).all()
