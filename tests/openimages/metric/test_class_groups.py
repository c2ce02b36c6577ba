"""Groups of classes, and the numbers of training images that they are made from."""

import numpy as np
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.metric.annotations import Annotations
from mmoid.openimages.metric.class_groups import class_columns, class_groups, train_image_counts
from mmoid.openimages.store.annotation_store import NOT_EXHAUSTIVE
from tests.box_stores import APPLE, BENCH, FRUIT, ORANGE, OTHER_BENCH, make_store
from tests.official_files import LABEL_NAMES, TREE
from tests.openimages.metric.metric_cases import make_annotations


def annotations_over(hierarchy: ClassHierarchy, of_lvis: bool = False) -> Annotations:
    """No boxes; LVIS has labels of classes that are not exhaustively annotated."""
    labels = ([0], [0], [NOT_EXHAUSTIVE]) if of_lvis else ()
    return make_annotations(1, hierarchy.label_names, hierarchy, [], [], [], [], *labels)


def test_groups_have_names_meanings_classes_and_an_order():
    annotations, counts = annotations_over(ClassHierarchy(TREE, LABEL_NAMES)), np.array([11, 101, 2030, 0, 10])
    groups = class_groups(annotations, counts)
    assert [(group.name, group.meaning, group.labels.tolist()) for group in groups] == [
        ('head', '101 to 2,030 training images', [FRUIT, ORANGE]),
        ('middle', '11 to 11 training images', [APPLE]),
        ('tail', '10 to 10 training images', [OTHER_BENCH]),
        ('untrained', 'no training image', [BENCH]),
        ('leaf', 'classes without descendants', [APPLE, ORANGE, BENCH, OTHER_BENCH]),
        ('parent', 'classes with descendants', [FRUIT]),
        ('level1', '1 below the root', [FRUIT, BENCH, OTHER_BENCH]),
        ('level2', '2 below the root', [APPLE, ORANGE]),
    ]
    assert {name: column.to_pylist() for name, column in class_columns(annotations, counts).items()} == {
        'train_images': [11, 101, 2030, 0, 10],
        'frequency': ['middle', 'head', 'head', 'untrained', 'tail'],
        'level': [2, 2, 1, 1, 1],
        'leaf': [True, True, False, True, True],
    }
    assert [group.name for group in class_groups(annotations, None)] == ['leaf', 'parent', 'level1', 'level2']


def test_classes_of_lvis_are_rare_common_or_frequent_instead():
    annotations = annotations_over(ClassHierarchy(TREE, LABEL_NAMES), of_lvis=True)
    counts = np.array([11, 101, 100, 0, 10])
    assert [(group.name, group.meaning, group.labels.tolist()) for group in class_groups(annotations, counts)[:4]] == [
        ('rare', '10 to 10 training images', [OTHER_BENCH]),
        ('common', '11 to 100 training images', [APPLE, FRUIT]),
        ('frequent', '101 to 101 training images', [ORANGE]),
        ('untrained', 'no training image', [BENCH]),
    ]
    columns = class_columns(annotations, counts)
    assert columns['frequency'].to_pylist() == ['common', 'frequent', 'common', 'untrained', 'rare']


def test_training_images_are_counted_in_a_store_or_read_from_a_csv(tmp_path):
    store = make_store(tmp_path, [(0, 0, (0, 0, 1, 1), 0), (0, 0, (0, 0, 1, 1), 0), (1, 1, (0, 0, 1, 1), 0)])
    names = LABEL_NAMES[2::-1]  # fruit, orange, apple
    assert train_image_counts(store.path, names).tolist() == [2, 1, 1]
    assert train_image_counts(store.path, names, expand_hierarchy=False).tolist() == [0, 1, 1]
    path = tmp_path / 'counts.csv'
    path.write_text('images,LabelName\n5,/m/apple\n0,/m/fruit\n7,/m/orange\n9,/m/more\n')
    assert train_image_counts(path, names).tolist() == [0, 7, 5]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('LabelName,images\n/m/apple,3\n', "classes: '/m/orange' is not a class of .*counts.csv"),
        ('LabelName,images\n/m/apple,3\n/m/orange,-1\n', r'counts\.csv:3: images = -1 is negative'),
        ('LabelName,images\n/m/apple,3\n/m/apple,4\n', r"counts\.csv: class '/m/apple' occurs twice"),
        ('LabelName,boxes\n/m/apple,3\n', r"counts\.csv:1: has no column 'images'"),
    ],
)
def test_bad_counts_are_errors(tmp_path, text, message):
    (tmp_path / 'counts.csv').write_text(text)
    with pytest.raises(AnnotationError, match=message):
        train_image_counts(tmp_path / 'counts.csv', LABEL_NAMES[:2])
