"""Ground truth: expansion, verified classes, bad input."""

from __future__ import annotations

import pytest

from mmoid.openimages.metric.ground_truth import GroundTruth
from tests.openimages.metric.metric_cases import FAR, LEFT, ap_and_positives, match
from tests.openimages.metric.metric_oracle import Case


@pytest.mark.parametrize(
    ('label', 'confidence', 'detected', 'counts'),
    [
        (1, 0, 1, True),  # said to be absent
        (1, 0.7, 1, True),  # said to be present, without a box
        (2, 1, 1, True),  # a present class has its ancestors present
        (1, 1, 2, False),  # but not its descendants
        (1, 0, 2, True),  # an absent class has its descendants absent
        (2, 0, 1, False),  # but not its ancestors
        (1, 1, 0, True),  # the class of a box
        (2, 1, 3, False),  # nothing said
    ],
)
def test_detections_of_classes_that_are_not_verified_are_ignored(label, confidence, detected, counts):
    case = Case(2, 4, [(0, 0, LEFT, False)], [(0, label, confidence)], parents={2: [1]})
    case.detections = [(0, detected, 0.9, FAR), (1, detected, 0.8, FAR)]
    assert match(case) == [(0.9, 0)] * counts
    case.verified_only = False
    assert match(case) == [(0.9, 0), (0.8, 0)]


def test_boxes_are_copied_to_every_ancestor_and_detections_are_not():
    case = Case(1, 3, [(0, 2, LEFT, False), (0, 2, FAR, True)], detections=[(0, 2, 0.9, LEFT)], parents={2: [0, 1]})
    case.group_of_weight = 0.5
    ap, positives = ap_and_positives(case)
    assert positives.tolist() == [1.5, 1.5, 1.5]
    assert ap.tolist() == [0, 0, 1 / 1.5]


def test_an_index_out_of_range_is_an_error():
    given = dict(image=[0, 1], label=[0, 2], label_image=[0], label_class=[1])
    others = dict(box=[LEFT, FAR], is_group_of=[0, 1], label_confidence=[1], hierarchy=None)
    assert GroundTruth.build(2, 3, **given, **others).num_images == 2
    for name, value, bound in (('image', 2, 2), ('label', -1, 3), ('label_image', 2, 2), ('label_class', 3, 3)):
        bad = {**given, name: [*given[name][:-1], value]}
        with pytest.raises(ValueError, match=rf'{name}\[\d\]: expects 0 <= index < {bound}, got {value}'):
            GroundTruth.build(2, 3, **bad, **others)
