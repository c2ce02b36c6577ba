"""Classes that were drawn in every image, or in some, become image-level labels."""

import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.evaluator import Evaluator
from tests.official_files import LABEL_NAMES, converted, write_files


def convert_with(tmp_path, text):
    (tmp_path / 'drawn.csv').write_text(text)
    return converted(tmp_path, write_files(tmp_path / 'official'), annotated_classes=tmp_path / 'drawn.csv')


def labels_of(store):
    rows = zip(store.image_of_label(), store.image_label, store.image_label_confidence)
    return {(store.image_id(i), store.label_names[label]): confidence for i, label, confidence in rows}


GIVEN = {('b1', '/m/apple'): 1, ('d3', '/m/orange'): 0, ('b1', '/m/bench2'): 0}


def test_a_class_is_present_where_it_or_a_class_below_has_a_box_and_absent_elsewhere(tmp_path):
    store, summary = convert_with(tmp_path, 'LabelName\n/m/fruit\n/m/orange\n')
    added = {('b1', '/m/fruit'): 1, ('a0', '/m/fruit'): 0, ('c2', '/m/fruit'): 1, ('d3', '/m/fruit'): 0}
    added |= {('b1', '/m/orange'): 1, ('a0', '/m/orange'): 0, ('c2', '/m/orange'): 0}
    assert labels_of(store) == GIVEN | added
    assert summary.changed['image-level labels added for annotated classes'] == 7
    keys = Evaluator(annotations_of_store(store)).ground_truth.verified
    image = store.image_ids().index('a0')
    verified = {LABEL_NAMES[key % 5] for key in keys if key // 5 == image}
    assert verified == {'/m/bench1', '/m/fruit', '/m/orange', '/m/apple'}, 'no fruit is no apple'


def test_the_list_may_name_images_in_any_spelling_and_those_of_other_sets_are_counted(tmp_path):
    text = 'LabelName,ImageID\n/m/bench1,train/a0.jpg\n/m/bench1,c2\n/m/bench1,x9\n'
    store, summary = convert_with(tmp_path, text)
    assert labels_of(store) == GIVEN | {('a0', '/m/bench1'): 1, ('c2', '/m/bench1'): 0}
    reason = 'rows of annotated classes of images that are not in the data set'
    assert summary.dropped[reason] == 1 and summary.first[reason] == 'x9'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('LabelName\n/m/fruit\n/m/tree\n', r"drawn\.csv:3: .*'/m/tree'"),
        ('LabelName,ImageID\n/m/fruit,x9\n', r"drawn\.csv: none of its images, first 'x9', is in this data set"),
        ('LabelName\n', r'drawn\.csv: lists no classes'),
        ('Class\n/m/fruit\n', r"drawn\.csv:1: has no column 'LabelName'"),
    ],
)
def test_an_unknown_class_or_image_is_an_error(tmp_path, text, message):
    with pytest.raises(AnnotationError, match=message):
        convert_with(tmp_path, text)
