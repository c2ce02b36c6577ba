"""Groups of classes, against going through the classes one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.metric.annotations import Annotations
from mmoid.openimages.metric.class_groups import class_columns, class_groups, train_image_counts
from mmoid.openimages.store.annotation_store import NOT_EXHAUSTIVE
from tests.box_stores import make_store
from tests.official_files import LABEL_NAMES, TREE
from tests.openimages.metric.metric_cases import make_annotations

NAMES = [f'c{k}' for k in range(7)]


@st.composite
def graphs(draw):
    """Parents of each class: any acyclic graph of seven classes, c0 on top."""
    return {k: draw(st.sets(st.integers(0, k - 1), max_size=2)) if k else set() for k in range(len(NAMES))}


def hierarchy_of(parents: dict[int, set[int]]) -> ClassHierarchy:
    def node(k: int) -> dict:
        return {'LabelName': NAMES[k], 'Subcategory': [node(child) for child in parents if k in parents[child]]}

    return ClassHierarchy({'LabelName': 'root', 'Subcategory': [node(k) for k in parents if not parents[k]]}, NAMES)


def level_of(parents: dict[int, set[int]], k: int) -> int:
    return 1 + max((level_of(parents, parent) for parent in parents[k]), default=0)


def third_of(counts: list[int], k: int) -> str:
    """Which third class k falls into; of equals the lower index is the more frequent."""
    ranked = sorted((k for k in range(len(counts)) if counts[k] > 0), key=lambda k: (-counts[k], k))
    large, rest = divmod(len(ranked), 3)
    names = ['head'] * (large + (rest > 0)) + ['middle'] * (large + (rest > 1)) + ['tail'] * large
    return names[ranked.index(k)]


def annotations_over(hierarchy: ClassHierarchy, of_lvis: bool = False) -> Annotations:
    """No boxes; LVIS has labels of classes that are not exhaustively annotated."""
    labels = ([0], [0], [NOT_EXHAUSTIVE]) if of_lvis else ()
    return make_annotations(1, hierarchy.label_names, hierarchy, [], [], [], [], *labels)


@settings(max_examples=100, deadline=None)
@given(
    graphs(),
    st.lists(st.sampled_from([0, 1, 2, 10, 11, 100, 101]), min_size=len(NAMES), max_size=len(NAMES)),
    st.booleans(),
)
def test_each_group_has_the_classes_found_one_by_one(parents, counts, of_lvis):
    annotations, counts_array = annotations_over(hierarchy_of(parents), of_lvis), np.array(counts)
    rows = []
    for k, count in enumerate(counts):
        leaf = not any(k in above for above in parents.values())
        frequency = 'frequent' if count > 100 else 'common' if count > 10 else 'rare'
        frequency = 'untrained' if not count else frequency if of_lvis else third_of(counts, k)
        rows.append((count, frequency, level_of(parents, k), leaf))
    columns = {name: tuple(column.to_pylist()) for name, column in class_columns(annotations, counts_array).items()}
    assert columns == dict(zip(('train_images', 'frequency', 'level', 'leaf'), zip(*rows)))
    members: dict[str, list[int]] = {}
    for k, (_, frequency, level, leaf) in enumerate(rows):
        for name in (frequency, 'leaf' if leaf else 'parent', f'level{level}'):
            members.setdefault(name, []).append(k)
    assert {group.name: sorted(group.labels.tolist()) for group in class_groups(annotations, counts_array)} == members


def test_groups_have_names_meanings_and_an_order():
    annotations = annotations_over(ClassHierarchy(TREE, LABEL_NAMES))
    groups = class_groups(annotations, np.array([30, 2000, 2030, 0, 7]))
    assert [(group.name, group.meaning) for group in groups] == [
        ('head', '2,000 to 2,030 training images'),
        ('middle', '30 to 30 training images'),
        ('tail', '7 to 7 training images'),
        ('untrained', 'no training image'),
        ('leaf', 'classes without descendants'),
        ('parent', 'classes with descendants'),
        ('level1', '1 below the root'),
        ('level2', '2 below the root'),
    ]
    assert [group.name for group in class_groups(annotations, None)] == ['leaf', 'parent', 'level1', 'level2']


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
