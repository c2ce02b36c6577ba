"""ClassHierarchy."""

import json
from collections import Counter

import numpy as np
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy, tree_of_ancestors
from mmoid.openimages.readers.csv_files import read_boxes, read_classes
from tests.shared_data import open_images

DIAMOND = {
    'LabelName': '/m/root',
    'Subcategory': [
        {'LabelName': '/m/toy', 'Subcategory': [{'LabelName': '/m/teddy'}]},
        {
            'LabelName': '/m/animal',
            'Subcategory': [{'LabelName': '/m/bear', 'Subcategory': [{'LabelName': '/m/teddy'}]}],
            'Part': [{'LabelName': '/m/paw'}],
        },
    ],
}
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


def test_a_class_outside_the_tree_is_an_error():
    with pytest.raises(AnnotationError, match=r'tree\.json: lacks 1 of the 2 classes, first ./m/cat.'):
        ClassHierarchy(DIAMOND, ('/m/bear', '/m/cat'), source='tree.json')

    with pytest.raises(AnnotationError, match='/m/bear.*twice'):
        ClassHierarchy(DIAMOND, ('/m/bear', '/m/bear'))


def test_a_cycle_is_an_error():
    branch = {'LabelName': 'a', 'Subcategory': [{'LabelName': 'b', 'Subcategory': [{'LabelName': 'a'}]}]}
    tree = {'LabelName': 'r', 'Subcategory': [branch]}
    with pytest.raises(AnnotationError, match='own ancestor'):
        ClassHierarchy(tree, ('a', 'b'))


def test_random_graphs_agree_with_walking_every_path():
    rng = np.random.default_rng(0)
    for _ in range(50):
        count = int(rng.integers(2, 12))
        children = {i: [j for j in range(i + 1, count) if rng.random() < 0.3] for i in range(count)}

        def node(i, children=children):
            return {'LabelName': f'/m/{i}', 'Subcategory': [node(j) for j in children[i]]}

        hierarchy = ClassHierarchy(
            {'LabelName': '/m/root', 'Subcategory': [node(i) for i in range(count)]},
            [f'/m/{i}' for i in range(count)],
        )
        expected = np.zeros((count, count), dtype=bool)

        def walk(i, above, expected=expected, children=children):
            expected[i, above] = True
            for j in children[i]:
                walk(j, [*above, i])

        for i in range(count):
            walk(i, [])
        assert (hierarchy.ancestor_matrix == expected).all()


@pytest.mark.parametrize(
    ('tree', 'classes', 'count'),
    [
        ('bbox_labels_500_hierarchy.json', 'challenge-class-descriptions-500.csv', 500),
        ('bbox_labels_600_hierarchy.json', 'class-descriptions-boxable.csv', 601),
    ],
)
def test_the_official_hierarchies_load(tree, classes, count):
    names = read_classes(open_images(f'classes/{classes}')).label_names
    hierarchy = ClassHierarchy.from_json(open_images(f'hierarchy/{tree}'), names)
    assert hierarchy.num_classes == count
    assert hierarchy.depth.max() == 5 and hierarchy.is_leaf.any()


def ancestors_by_merged_branches(node, is_root=True):
    """Ancestors of every class as the organisers' first expansion script (2018) listed them, with repetitions.

    Below each node the lists of its branches are joined, then the node is added once to every class among them. A class
    that stands twice in the file thus keeps what both places give it, but for what they share right above the branch.
    """
    lists: dict[str, list[str]] = {}
    for child in node.get('Subcategory', ()):
        for name, ancestors in ancestors_by_merged_branches(child, is_root=False).items():
            lists.setdefault(name, []).extend(ancestors)
    if not is_root:
        lists = {name: [*ancestors, node['LabelName']] for name, ancestors in lists.items()} | {node['LabelName']: []}
    return lists


def test_expansion_of_the_real_validation_sample():
    """The first official script gives 36,191 rows; the later one, and metric-spec, take each ancestor once.

    The difference is Shellfish, which stands in the file twice above the same four classes and was given twice to each
    of their 143 boxes.
    """
    tree = json.loads(open_images('hierarchy/bbox_labels_500_hierarchy.json').read_text())
    classes = read_classes(open_images('classes/challenge-class-descriptions-500.csv'))
    names = classes.label_names
    boxes = open_images('annotations/validation-sample-challenge-bbox.csv')
    labels = classes.find(read_boxes(boxes)['LabelName'])
    assert len(labels) == 23632

    first_script = ancestors_by_merged_branches(tree)
    with_repetitions = [(row, name) for row, label in enumerate(labels) for name in first_script[names[label]]]
    assert len(labels) + len(with_repetitions) == 36191
    repeated = [item for item, count in Counter(with_repetitions).items() if count > 1]
    assert len(repeated) == 143
    assert {names[labels[row]] for row, _ in repeated} == {'/m/0_cp5', '/m/0cjq5', '/m/0ll1f78', '/m/0n28_'}
    assert {name for _, name in repeated} == {'/m/0fbdv'}

    rows, expanded = ClassHierarchy(tree, names).expand_up(labels)
    assert len(rows) == 36191 - 143
    ours = Counter((row, names[label]) for row, label in zip(rows.tolist(), expanded.tolist()))
    assert set(ours) == set(with_repetitions) | {(row, names[label]) for row, label in enumerate(labels)}


def test_a_tree_of_ancestors_has_the_same_ancestors_and_depth():
    hierarchy = ClassHierarchy(DIAMOND, NAMES)
    again = ClassHierarchy(tree_of_ancestors(hierarchy.ancestor_matrix, NAMES), NAMES)
    assert (again.ancestor_matrix == hierarchy.ancestor_matrix).all() and hierarchy.ancestor_matrix.any()
    assert (again.depth == hierarchy.depth).all()
