"""Labels can be read: inside the picture, beside each other, in the style that says what a box is."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from mmoid.visualization.outlines import FONT_SIZE, GREY, Outline, draw_outlines, objects_of, sheet, show_image


def drawn(outlines, size=(200, 100)):
    figure, (ax,) = sheet([size], 'title')
    show_image(ax, np.zeros((size[1], size[0], 3), np.uint8), 'picture')
    draw_outlines(ax, outlines)
    FigureCanvasAgg(figure).draw()
    return ax


def label_boxes(ax):
    renderer = ax.figure.canvas.get_renderer()
    return [text.get_bbox_patch().get_window_extent(renderer) for text in ax.texts]


def test_labels_at_every_edge_stay_in_the_picture():
    corners = [(0, 0, 10, 10), (190, 0, 200, 10), (0, 90, 10, 100), (190, 90, 200, 100), (0, 0, 200, 100)]
    ax = drawn([Outline(box, ('A long class name', 'another'), GREY) for box in corners])
    place = ax.get_window_extent()
    for label in label_boxes(ax):
        assert place.x0 - 1 <= label.x0 and label.x1 <= place.x1 + 1
        assert place.y0 - 1 <= label.y0 and label.y1 <= place.y1 + 1


def test_labels_of_boxes_that_share_a_corner_do_not_cover_each_other():
    ax = drawn([Outline((60, 40, x, 80), (f'Class {x}',), GREY) for x in (90, 110, 130)])
    first, second, third = label_boxes(ax)
    for one, other in ((first, second), (first, third), (second, third)):
        width = min(one.x1, other.x1) - max(one.x0, other.x0)
        height = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert width < 2 or height < 2, 'pixels'


def test_one_box_carries_a_list_and_its_style():
    ax = drawn([Outline((10, 10, 60, 60), ('Girl', 'Person', 'Costs $5'), '#0072b2', dashed=True),
                Outline((80, 10, 90, 20), (), GREY)])  # fmt: skip
    girl, bare = ax.patches
    assert [text.get_text() for text in ax.texts] == ['Girl\nPerson\nCosts \\$5']
    assert girl.get_linestyle() != 'solid' and bare.get_linestyle() == 'solid'
    assert to_hex(bare.get_edgecolor()) == GREY
    assert ax.texts[0].get_fontsize() == FONT_SIZE


def test_boxes_on_one_object_are_found():
    box = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 9.5]])
    assert [members.tolist() for members in objects_of(box, 0.9)] == [[0, 2], [1]]
    assert objects_of(np.zeros((0, 4)), 0.9) == []


@pytest.mark.parametrize('count', [0, 1, 5])
def test_pictures_keep_their_shape_on_a_sheet(count):
    figure, axes = sheet([(300, 100)] * count, 'title')
    for ax in axes:
        place = ax.get_position()
        assert place.width * figure.get_figwidth() == pytest.approx(3 * place.height * figure.get_figheight())
        assert 0 <= place.x0 and place.x1 <= 1 and 0 <= place.y0 and place.y1 <= 1
