"""Labels that a model predicts on the annotated objects."""

import numpy as np
import pytest

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
from tests.openimages.predictions import prediction_cases
from tests.openimages.predictions.prediction_cases import Row

WHOLE, LEFT, RIGHT = (0, 0, 1, 1), (0, 0, 0.5, 1), (0.5, 0, 1, 1)


def make_predictions(folder, detections, image_ids=IDS, label_names=LABEL_NAMES):
    """Predictions of (image, label, score, box) rows, ordered by image."""
    rows = [Row(image_ids[image], *rest) for image, *rest in detections]
    return prediction_cases.make_store(folder / 'predictions', rows, list(image_ids), label_names)


def pairs_of(matrix):
    return {(int(i), int(j)): int(matrix[i, j]) for i, j in zip(*np.nonzero(matrix))}


@pytest.mark.parametrize(
    ('annotated', 'predicted', 'confused'),
    [(APPLE, ORANGE, True), (APPLE, FRUIT, False), (FRUIT, APPLE, True), (APPLE, APPLE, False)],
    ids=['another class', 'an ancestor', 'a finer label', 'the label'],
)
def test_a_label_that_the_annotation_does_not_support_is_a_confusion(tmp_path, annotated, predicted, confused):
    store = make_store(tmp_path, [(0, annotated, LEFT, 0), (0, BENCH, RIGHT, 0), (1, annotated, LEFT, 0)])
    found = count_confusion(store, make_predictions(tmp_path, [(0, predicted, 0.9, LEFT), (0, BENCH, 0.9, RIGHT)]))
    assert found.objects[annotated] == 2
    assert pairs_of(found.predicted) == {(annotated, predicted): 1, (BENCH, BENCH): 1}
    assert pairs_of(found.confused) == ({(annotated, predicted): 1} if confused else {})
    assert found.rates[annotated, predicted] == 0.5 * confused
    assert found.top_pairs(3) == ([(annotated, predicted, 1)] if confused else [])


def test_low_scores_group_of_boxes_and_images_without_predictions_do_not_count(tmp_path):
    store = make_store(tmp_path, [(0, APPLE, LEFT, 0), (0, BENCH, RIGHT, 1), (1, APPLE, WHOLE, 0)])
    rows = [(0, ORANGE, 0.4, LEFT), (0, ORANGE, 0.9, RIGHT)]
    found = count_confusion(store, make_predictions(tmp_path, rows, image_ids=('b1',)))
    assert found.objects.tolist() == [1, 0, 0, 0, 0] and not found.predicted.any()
    found = count_confusion(store, make_predictions(tmp_path, rows, image_ids=('b1',)), score_threshold=0.4)
    assert pairs_of(found.confused) == {(APPLE, ORANGE): 1}


def test_classes_are_matched_by_mid_and_images_in_any_spelling_and_others_are_counted(tmp_path):
    store = make_store(tmp_path, [(0, APPLE, LEFT, 0), (2, BENCH, LEFT, 0)])
    turned = LABEL_NAMES[::-1]
    orange, bench = turned.index('/m/orange'), turned.index('/m/bench2')
    rows = [(0, orange, 0.9, LEFT), (1, orange, 0.9, LEFT), (2, bench, 0.9, LEFT)]
    predictions = make_predictions(tmp_path, rows, image_ids=('x/b1.jpg', 'e4', 'c2'), label_names=turned)
    found = count_confusion(store, predictions)
    assert pairs_of(found.confused) == {(APPLE, ORANGE): 1, (BENCH, OTHER_BENCH): 1}
    assert found.left_out == {'left out: on images that are not annotated (first: e4)': 1}


def confusion_by_hand(store, boxes, detections):
    objects, label_sets = objects_of(boxes, 0.9), label_sets_of(boxes, 0.9)
    supported = [{int(a) for i in labels for a in (i, *store.hierarchy.ancestors(i))} for labels in label_sets]
    object_of_row = {row: k for k, members in enumerate(objects) for row in members}
    best_scores = [{} for _ in objects]
    for image, label, score, box in detections:
        candidates = []
        for row, k in object_of_row.items():
            overlap = iou(boxes[row][2], box)
            if boxes[row][0] == image and overlap >= 0.5:
                candidates.append((label in supported[k], overlap, -row, k))
        if candidates:
            scores = best_scores[max(candidates)[-1]]
            scores[label] = max(score, scores.get(label, 0))
    objects_of_class, predicted, confused, scores = (np.zeros((5, *size)) for size in ((), (5,), (5,), (5,)))
    for k, labels in enumerate(label_sets):
        for i in labels:
            objects_of_class[i] += 1
            for j, score in best_scores[k].items():
                scores[i, j] += score
                predicted[i, j] += score >= 0.5
                confused[i, j] += score >= 0.5 and j not in supported[k]
    return objects_of_class, predicted, confused, scores / np.maximum(objects_of_class, 1)[:, None]


@pytest.mark.parametrize('seed', range(2))
def test_counts_and_scores_are_those_of_a_loop_over_objects(tmp_path, seed):
    rng = np.random.default_rng(seed)
    boxes = random_rows(rng)
    detections = []
    for image, _, box, _ in boxes * 3:
        detections.append((image, int(rng.integers(5)), float(np.float32(rng.random())), near(rng, box)))
    detections.sort()
    store = make_store(tmp_path, boxes)
    found = count_confusion(store, make_predictions(tmp_path, detections))
    objects, predicted, confused, scores = confusion_by_hand(store, boxes, detections)
    assert confused.sum() > 20 and predicted.trace() > 5
    assert (found.objects == objects).all()
    assert (found.predicted == predicted).all()
    assert (found.confused == confused).all()
    assert np.allclose(found.mean_scores, scores)
    own = np.diag(scores)
    for i, j in np.ndindex(5, 5):
        known = i != j and min(own[i], own[j]) >= 0.01
        expected = min(scores[i, j] / own[j], scores[j, i] / own[i]) if known else 0
        assert found.interchangeability[i, j] == pytest.approx(expected)
