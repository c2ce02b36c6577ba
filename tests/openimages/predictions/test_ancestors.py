"""Ancestors of detections against a plain loop, and NMS among them."""

import numpy as np
import pytest

from mmoid.openimages.boxes import box_iou
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy, names_with_ancestors
from mmoid.openimages.predictions import ancestors
from mmoid.openimages.predictions.ancestors import add_ancestors, hierarchy_with_ancestors
from tests.official_files import tree

TREE = tree({'a': {'b': {'c': {}}, 'd': {}}, 'e': {'c': {}}, 'f': {}})
HIERARCHY = ClassHierarchy(TREE, list('abcdef'))


def random_detections(seed, count=400):
    """Crowded boxes on a grid, with many equal boxes, equal scores and boxes without area; images mixed."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 6, (count, 2))
    box = np.concatenate([low, low + rng.integers(0, 7, (count, 2))], axis=1) / 12
    return rng.integers(0, 5, count), rng.integers(0, 6, count), rng.integers(1, 30, count) / 30, box


def expand_plainly(image, label, score, box, nms_iou):
    """(image, class, score, box) in a loop."""
    rows = [
        (image[k], copy, score[k], tuple(box[k]))
        for k in range(len(label))
        for copy in (label[k], *HIERARCHY.ancestors(label[k]))
    ]
    kept = []
    for row in sorted(rows, key=lambda row: -row[2]):  # of equal scores the first comes first
        same = [other for other in kept if other[:2] == row[:2]] if not HIERARCHY.is_leaf[row[1]] else []
        if all(box_iou(np.array(row[3]), np.array(other[3])) <= nms_iou for other in same):
            kept.append(row)
    return sorted(kept)


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('rows_at_once', [1, 1 << 18])
def test_added_ancestors_and_nms_agree_with_a_loop(seed, rows_at_once, monkeypatch):
    monkeypatch.setattr(ancestors, 'ROWS_AT_ONCE', rows_at_once)
    image, label, score, box = random_detections(seed)
    nms_iou = [0.5, 0.3, 0.7, 0.99, 0.5, 0.5][seed]
    rows, labels = add_ancestors(HIERARCHY, image, label, score, box, nms_iou)
    found = sorted(zip(image[rows], labels, score[rows], map(tuple, box[rows])))
    assert found == expand_plainly(image, label, score, box, nms_iou)
    assert (np.diff(rows) >= 0).all()


def test_ancestors_that_are_not_among_the_classes_are_added_to_them():
    hierarchy = hierarchy_with_ancestors(TREE, ['d', 'c'])
    assert hierarchy.label_names[:2] == ('d', 'c') and set(hierarchy.label_names) == set('abcde')
    assert names_with_ancestors(TREE, ['f', 'a']) == ('f', 'a')
    with pytest.raises(AnnotationError, match='tree.json: none of the 2 classes has an ancestor, so none can be added'):
        hierarchy_with_ancestors(TREE, ['f', 'a'], 'tree.json')


def test_no_detections_and_a_bad_threshold():
    nothing = [np.empty(0, dtype=int)] * 2 + [np.empty(0), np.empty((0, 4))]
    assert [len(part) for part in add_ancestors(HIERARCHY, *nothing, 0.5)] == [0, 0]
    with pytest.raises(ValueError, match='nms_iou must be between 0 and 1, got 1'):
        add_ancestors(HIERARCHY, *nothing, 1)
