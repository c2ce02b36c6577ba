import numpy as np
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy, tree_of_ancestors
from mmoid.openimages.readers.csv_files import read_boxes, read_classes
from tests.official_files import tree
from tests.real_stores import open_images

DIAMOND = tree({'/m/toy': {'/m/teddy': {}}, '/m/animal': {'/m/bear': {'/m/teddy': {}}}})
DIAMOND['Subcategory'][1]['Part'] = [{'LabelName': '/m/paw'}]
NAMES = ('/m/teddy', '/m/bear', '/m/animal', '/m/toy', '/m/paw')


def test_ancestors_are_the_union_over_all_paths_each_once():
    hierarchy = ClassHierarchy(DIAMOND, NAMES)
    assert hierarchy.ancestors(0).tolist() == [1, 2, 3]
    assert hierarchy.ancestors(4).tolist() == []  # a part is not a descendant
    assert hierarchy.descendants(2).tolist() == [0, 1]
    assert hierarchy.is_leaf.tolist() == [True, False, False, False, True]
    assert hierarchy.depth.tolist() == [3, 2, 1, 1, 1]


def test_ancestry_through_a_node_that_is_not_a_class_is_kept():
    hierarchy = ClassHierarchy(DIAMOND, ('/m/teddy', '/m/animal'))
    assert hierarchy.ancestor_matrix.tolist() == [[False, True], [False, False]]


def test_expansion_puts_copies_right_after_the_original_row():
    hierarchy = ClassHierarchy(DIAMOND, NAMES)
    rows, labels = hierarchy.expand_up(np.array([1, 0, 3]))
    assert rows.tolist() == [0, 0, 1, 1, 1, 1, 2]
    assert labels.tolist() == [1, 2, 0, 1, 2, 3, 3]
    rows, labels = hierarchy.expand_down(np.array([2]))
    assert labels.tolist() == [2, 0, 1]
    rows, labels = hierarchy.expand_up(np.array([], dtype=np.int64))
    assert len(rows) == len(labels) == 0


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (('/m/bear', '/m/cat'), r'tree\.json: lacks 1 of the 2 classes, first ./m/cat.'),
        (('/m/bear', '/m/bear'), '/m/bear.*twice'),
        (('/m/bear', '/m/root'), "'/m/root' is the root of the hierarchy, and the root is never a class"),  # case 14
    ],
)
def test_classes_that_the_tree_cannot_hold_are_errors(names, message):
    with pytest.raises(AnnotationError, match=message):
        ClassHierarchy(DIAMOND, names, source='tree.json')
    with pytest.raises(AnnotationError, match='own ancestor'):
        ClassHierarchy(tree({'a': {'b': {'a': {}}}}), ('a', 'b'))


def test_random_graphs_agree_with_walking_every_path():
    rng = np.random.default_rng(0)
    for _ in range(50):
        count = int(rng.integers(2, 12))
        children = [[j for j in range(i + 1, count) if rng.random() < 0.3] for i in range(count)]
        expected = np.zeros((count, count), dtype=bool)

        def node(i, above=(), children=children, expected=expected):
            expected[i, above] = True
            return {'LabelName': f'/m/{i}', 'Subcategory': [node(j, [*above, i]) for j in children[i]]}

        whole = {'LabelName': '/m/root', 'Subcategory': [node(i) for i in range(count)]}
        assert (ClassHierarchy(whole, [f'/m/{i}' for i in range(count)]).ancestor_matrix == expected).all()


@pytest.mark.parametrize(
    ('name', 'classes', 'count'),
    [
        ('bbox_labels_500_hierarchy.json', 'challenge-class-descriptions-500.csv', 500),
        ('bbox_labels_600_hierarchy.json', 'class-descriptions-boxable.csv', 601),
    ],
)
def test_the_official_hierarchies_load(name, classes, count):
    names = read_classes(open_images(f'classes/{classes}')).label_names
    hierarchy = ClassHierarchy.from_json(open_images(f'hierarchy/{name}'), names)
    assert hierarchy.num_classes == count
    assert hierarchy.depth.max() == 5 and hierarchy.is_leaf.any()


def test_expansion_of_the_real_validation_sample():
    """The first official script (2018) gives 36,191 rows, with Shellfish twice for each box of four classes below it.

    It stands in the file twice above them. The later script, and metric-spec, take each ancestor once.
    """
    classes = read_classes(open_images('classes/challenge-class-descriptions-500.csv'))
    names = classes.label_names
    hierarchy = ClassHierarchy.from_json(open_images('hierarchy/bbox_labels_500_hierarchy.json'), names)
    boxes = read_boxes(open_images('annotations/validation-sample-challenge-bbox.csv'))
    labels = classes.find(boxes['LabelName'])
    repeated = {'/m/0_cp5', '/m/0cjq5', '/m/0ll1f78', '/m/0n28_'}
    assert {names[label] for label in hierarchy.descendants(names.index('/m/0fbdv'))} >= repeated
    assert len(labels) == 23632 and sum(names[label] in repeated for label in labels) == 143
    assert len(hierarchy.expand_up(labels)[0]) == 36191 - 143


def test_a_tree_of_ancestors_has_the_same_ancestors_and_depth():
    hierarchy = ClassHierarchy(DIAMOND, NAMES)
    again = ClassHierarchy(tree_of_ancestors(hierarchy.ancestor_matrix, NAMES), NAMES)
    assert (again.ancestor_matrix == hierarchy.ancestor_matrix).all() and hierarchy.ancestor_matrix.any()
    assert (again.depth == hierarchy.depth).all()
