"""What a model says of the annotated objects."""

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


def test_a_label_that_is_predicted_instead_of_the_annotated_one_is_a_confusion(tmp_path):
    store = make_store(tmp_path, [(0, APPLE, LEFT, 0), (0, BENCH, RIGHT, 0), (1, APPLE, LEFT, 0)])
    found = count_confusion(store, make_predictions(tmp_path, [(0, ORANGE, 0.9, LEFT), (0, BENCH, 0.9, RIGHT)]))
    assert found.objects.tolist() == [2, 0, 0, 1, 0]
    assert pairs_of(found.confused) == {(APPLE, ORANGE): 1}
    assert pairs_of(found.predicted) == {(APPLE, ORANGE): 1, (BENCH, BENCH): 1}
    assert found.rates[APPLE, ORANGE] == found.concurrent_rates[APPLE, ORANGE] == 0.5
    assert found.concurrent_rates[BENCH, BENCH] == 0  # found, not concurrent
    assert found.top_pairs(3) == [(APPLE, ORANGE, 1)]


def test_a_label_that_is_annotated_too_is_concurrent_and_no_confusion(tmp_path):
    store = make_store(tmp_path, [(0, APPLE, LEFT, 0), (0, ORANGE, LEFT, 0)])
    found = count_confusion(store, make_predictions(tmp_path, [(0, ORANGE, 0.9, LEFT)]))
    assert pairs_of(found.confused) == {}
    assert found.concurrent_rates[APPLE, ORANGE] == 1 and found.concurrent_rates[ORANGE, APPLE] == 0


@pytest.mark.parametrize(('respect_hierarchy', 'confused'), [(True, {}), (False, {(APPLE, FRUIT): 1})])
def test_an_ancestor_is_no_confusion_unless_the_hierarchy_is_left_aside(tmp_path, respect_hierarchy, confused):
    store = make_store(tmp_path, [(0, APPLE, LEFT, 0)])
    predictions = make_predictions(tmp_path, [(0, FRUIT, 0.9, LEFT)])
    found = count_confusion(store, predictions, respect_hierarchy=respect_hierarchy)
    assert pairs_of(found.confused) == confused
    assert pairs_of(found.predicted) == {(APPLE, FRUIT): 1}


def test_a_finer_label_than_the_annotated_one_is_counted(tmp_path):
    store = make_store(tmp_path, [(0, FRUIT, LEFT, 0)])
    found = count_confusion(store, make_predictions(tmp_path, [(0, APPLE, 0.9, LEFT)]))
    assert pairs_of(found.confused) == {(FRUIT, APPLE): 1}


def test_a_detection_speaks_of_the_object_that_bears_it_out_even_if_it_overlaps_another_more(tmp_path):
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


def test_predictions_of_other_classes_or_images_are_refused_by_name(tmp_path):
    store = make_store(tmp_path, [(0, APPLE, LEFT, 0)])
    with pytest.raises(AnnotationError, match=r"1 differ, first '/m/pear', which is in .*predictions and not in .*st"):
        count_confusion(store, make_predictions(tmp_path, [], label_names=[*LABEL_NAMES, '/m/pear']))
    with pytest.raises(AnnotationError, match=r"1 differ, first '/m/bench2', which is in .*store and not in .*pred"):
        count_confusion(store, make_predictions(tmp_path, [], label_names=LABEL_NAMES[:-1]))
    with pytest.raises(AnnotationError, match=r"2 of the 3 images predicted are not in .*store, first 'e4'"):
        count_confusion(store, make_predictions(tmp_path, [], image_ids=['b1', 'e4', 'f5']))


def confusion_by_hand(store, boxes, detections, respect_hierarchy):
    objects, label_sets = objects_of(boxes, 0.8), label_sets_of(boxes, 0.8)
    borne_out = [
        labels | {int(a) for label in labels for a in store.hierarchy.ancestors(label) if respect_hierarchy}
        for labels in label_sets
    ]
    said = [set() for _ in objects]
    for image, label, score, box in detections:
        candidates = [
            (label in borne_out[k], iou(boxes[row][2], box), k) for k, members in enumerate(objects)
            for row in members if boxes[row][0] == image and iou(boxes[row][2], box) >= 0.5
        ]  # fmt: skip
        if score >= 0.5 and candidates:
            said[max(candidates)[2]].add(label)
    counts = np.zeros((3, 5, 5), dtype=int)
    for labels, out, names in zip(label_sets, borne_out, said):
        for i in labels:
            counts[0, i, i] += 1
            for j in names:
                counts[1, i, j] += 1
                counts[2, i, j] += j not in out
    return counts[0].diagonal(), counts[1], counts[2]


@pytest.mark.parametrize('respect_hierarchy', [True, False])
@pytest.mark.parametrize('seed', range(4))
def test_counts_are_those_made_object_by_object(tmp_path, seed, respect_hierarchy):
    rng = np.random.default_rng(seed)
    boxes = random_rows(rng)
    detections = [
        (image, int(rng.integers(5)), float(np.float32(rng.random())), near(rng, box))
        for image, _, box, _ in boxes for _ in range(3)
    ]  # fmt: skip
    store = make_store(tmp_path, boxes)
    assert store.is_group_of.tolist() == [row[3] for row in boxes]  # images and rows keep their order
    found = count_confusion(
        store, make_predictions(tmp_path, detections), same_object_iou=0.8, respect_hierarchy=respect_hierarchy
    )
    objects, predicted, confused = confusion_by_hand(store, boxes, detections, respect_hierarchy)
    assert confused.sum() > 20 and predicted.trace() > 5
    assert (found.objects == objects).all()
    assert (found.predicted == predicted).all()
    assert (found.confused == confused).all()
    assert (found.rates >= 0).all() and (found.rates <= 1).all() and not found.rates.diagonal().any()
