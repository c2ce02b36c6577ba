"""The charts show the numbers that they are given."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from mmoid.openimages.sampling.coverage import ImageLists, plan_sampling
from mmoid.openimages.statistics.concurrent_rates import Concurrence
from mmoid.openimages.statistics.confusion import Confusion
from mmoid.openimages.statistics.store_statistics import LeafAbsence
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.visualization import figures


def texts(ax):
    return [text.get_text().strip() for text in ax.texts]


def heights(ax):
    return [patch.get_height() for patch in ax.patches]


def curves(ax):
    return [list(line.get_ydata()) for line in ax.lines]


def rows_of(figure):
    (ax,) = figure.axes
    return [label.get_text() for label in ax.get_yticklabels()], texts(ax)


def test_imbalance_is_drawn_by_falling_number_of_images():
    counts = np.array([3, 0, 20, 7])
    (ax,) = figures.draw_imbalance(counts, counts * 2).axes
    assert curves(ax) == [[20, 7, 3], [40, 14, 6]] and ax.get_yscale() == 'log'
    assert '3 classes, 20 to 3' in ax.get_legend().get_texts()[0].get_text()
    assert all(line.get_marker() == '.' for line in ax.lines), 'a single class is to be seen too'


def test_shares_are_drawn_by_falling_number_of_objects():
    together = csr_array([[0, 1, 2], [1, 0, 0], [2, 0, 0]])
    figure = figures.draw_label_pairs(Concurrence(np.array([4, 1, 8]), together), ['a', 'b', 'c'])
    assert rows_of(figure) == (['a · c (2)', 'a · b (1)'], ['50.0%', '25.0%', '25.0%', '100.0%'])
    counts = np.array([[0, 0], [3, 0]])
    figure = figures.draw_confusion(Confusion(np.array([1, 4]), counts, counts, counts, {}), ['a', 'b'])
    assert rows_of(figure) == (['b → a (3)'], ['75.0%'])
    absence = LeafAbsence(np.array([0, 2, 1]), np.array([4, 10, 0]), np.array([1, 5, 0]))
    assert rows_of(figures.draw_leaf_absence(absence, ['a', 'b', 'c'])) == (['c (10)', 'a (4)'], ['50.0%', '25.0%'])


def test_empty_figures_say_so():
    figure = figures.draw_label_pairs(Concurrence(np.zeros(2, dtype=int), csr_array((2, 2), dtype=int)), ['a', 'b'])
    assert texts(figure.axes[0]) == ['none']


def test_long_names_are_cut_and_dollar_signs_are_not_mathematics(tmp_path):
    names = ['A name that is far too long for an axis', '$x_$']
    figure = figures.draw_label_pairs(Concurrence(np.ones(2, dtype=int), csr_array([[0, 1], [1, 0]])), names)
    assert rows_of(figure)[0] == [r'A name that is far too lon… · \$x_\$ (1)']
    assert figures.save(figure, tmp_path / 'new' / 'names.png').exists()


def test_ap_is_drawn_from_frequent_to_rare_classes_without_those_that_have_none():
    images = np.array([5, 1000, 0, 70, 70])
    first = np.array([0.5, 0.4, 0.3, np.nan, 0.2])
    second = np.array([0.6, 0.3, 0.3, 0.9, 0.5])
    figure = figures.draw_class_ap(images, first, second, ['a', 'b', '$c', 'd', 'e'], ('one', 'two'))
    counts, upper, lower = figure.axes
    assert heights(counts) == [1000, 70, 5, 0]
    assert curves(upper) == [[0.4, 0.2, 0.5, 0.3], [0.3, 0.5, 0.6, 0.3]]
    assert heights(lower) == pytest.approx([-0.1, 0.3, 0.1, 0])
    assert [label.get_text() for label in lower.get_xticklabels()] == ['b', 'e', 'a', r'\$c']
    assert 'mAP 0.3500 (one), 0.4250 (two); 2 gain, 1 lose' in counts.get_title(loc='left')
    with pytest.raises(ValueError, match='no class has an AP in both evaluations'):
        figures.draw_class_ap(images[:2], np.array([np.nan, 1]), np.array([1, np.nan]), ['a', 'b'])


def test_with_many_classes_means_are_drawn_and_the_largest_changes_named():
    rng = np.random.default_rng(0)
    images = rng.permutation(np.arange(1, 501))
    first = rng.uniform(0.2, 0.7, 500)
    second = first + rng.normal(0.02, 0.05, 500)
    _, upper, lower = figures.draw_class_ap(images, first, second, [f'class {k}' for k in range(500)]).axes
    order = np.argsort(-images)
    assert curves(upper)[1][250] == pytest.approx(first[order][250 - 12 : 250 + 13].mean())
    by_gain = np.argsort(second - first)
    assert {text.rsplit(' ', 1)[0] for text in texts(lower)} == {f'class {k}' for k in [*by_gain[:6], *by_gain[-6:]]}


def test_each_sampling_plan_has_its_curves(tiny_data):
    store = AnnotationStore(tiny_data / 'train')
    plans = [plan_sampling(ImageLists.of_store(store), balance, 4) for balance in (0, 0.7)]
    counts = store.class_image_counts()
    order = np.argsort(-counts, kind='stable')[: np.count_nonzero(counts)]
    for ax, name in zip(figures.draw_sampling_plans(plans).axes, ('seen', 'unseen')):
        assert curves(ax)[:2] == [getattr(plan.all_epochs, name)[order].tolist() for plan in plans]
        assert [line.get_label() for line in ax.lines][:2] == ['λ = 0', 'λ = 0.7']


def test_the_training_curve_shows_map_and_stages():
    figure = figures.draw_training(
        [1, 2], [0.2, 0.5], [0.5, 1.5], [3.0, 2.0], [0.01, 0.001], [('a', 0, 1), ('b', 1, 2)]
    )
    assert [curves(ax) for ax in figure.axes] == [[[0.2, 0.5]], [[3.0, 2.0]], [[0.01, 0.001]]]
    assert set(texts(figure.axes[0])) == {'a', 'b', '0.200', '0.500'}
