"""AP by class of two evaluations, drawn."""

import numpy as np
import pytest

from mmoid.visualization import draw_class_ap, save
from mmoid.visualization.class_ap import _spread


def bars(ax):
    return [patch.get_height() for patch in ax.patches]


def test_classes_stand_from_frequent_to_rare_and_those_without_ap_are_left_out(tmp_path):
    images = np.array([5, 1000, 0, 70, 70])
    first = np.array([0.5, 0.4, 0.3, np.nan, 0.2])
    second = np.array([0.6, 0.3, 0.3, 0.9, 0.5])
    figure = draw_class_ap(images, first, second, ['a', 'b', '$c', 'd', 'e' * 40], ('one', 'two'))
    counts, upper, lower = figure.axes
    assert bars(counts) == [1000, 70, 5, 0]
    assert [line.get_ydata().tolist() for line in upper.lines] == [[0.4, 0.2, 0.5, 0.3], [0.3, 0.5, 0.6, 0.3]]
    assert bars(lower) == pytest.approx([-0.1, 0.3, 0.1, 0])
    assert [label.get_text() for label in lower.get_xticklabels()] == ['b', 'e' * 26 + '…', 'a', r'\$c']
    assert 'mAP 0.3500 (one), 0.4250 (two); 2 gain, 1 lose' in counts.get_title(loc='left')
    assert save(figure, tmp_path / 'ap.png').exists()


def test_of_many_classes_means_are_drawn_and_those_that_changed_most_are_named(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.permutation(np.arange(1, 501))
    first = rng.uniform(0.2, 0.7, 500)
    second = first + rng.normal(0.02, 0.05, 500)
    figure = draw_class_ap(images, first, second, [f'class {k}' for k in range(500)], top=4)
    _, upper, lower = figure.axes
    order = np.argsort(-images)
    means = upper.lines[1].get_ydata()
    assert means[250] == pytest.approx(first[order][250 - 12 : 250 - 12 + 25].mean())
    assert means[0] == pytest.approx(first[order][:13].mean())
    named = {text.get_text().split('\n')[0] for text in lower.texts}
    by_gain = np.argsort(second - first)
    assert named == {f'class {k}' for k in [*by_gain[:4], *by_gain[-4:]]}
    save(figure, tmp_path / 'ap.png')


@pytest.mark.parametrize('place', [[], [3], [0, 1, 2], [97, 98, 99], [10, 11, 50, 90, 91], list(range(8))])
def test_names_are_moved_apart_and_stay_inside(place):
    moved = _spread(np.array(place, dtype=np.int64), 100 / 8, 100)
    assert (np.diff(moved) >= 100 / 8 - 1e-9).all()
    assert ((moved >= 100 / 16) & (moved <= 100 - 100 / 16)).all()


def test_without_a_common_class_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match='no class has an AP in both evaluations'):
        draw_class_ap(np.array([1, 2]), np.array([np.nan, 1]), np.array([1, np.nan]), ['a', 'b'])
