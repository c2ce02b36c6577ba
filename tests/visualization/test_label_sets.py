"""Images with one box per object and all its labels."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from mmoid.openimages.predictions.prediction_store import Detections
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.visualization.figures import save
from mmoid.visualization.label_sets import (
    GREY,
    ImageReader,
    LabelledBox,
    draw_annotations,
    draw_predictions,
    draw_sheet,
)
from tests.openimages.predictions.prediction_cases import write_for


def texts(ax):
    return [text.get_text() for text in ax.texts]


def drawn(*boxes):
    """The axes of an image of 200 x 100 pixels with boxes."""
    boxes = [LabelledBox(np.array(corners), *rest) for corners, *rest in boxes]
    (ax,) = draw_sheet('title', [('image', np.zeros((100, 200, 3), np.uint8), boxes)]).axes
    return ax


def test_an_object_has_one_box_with_all_its_labels(tiny_data, tmp_path):
    store = AnnotationStore(tiny_data / 'train')
    figure = draw_annotations(store, range(12))
    assert len(figure.axes) == 12
    for image, ax in enumerate(figure.axes):
        labels = [store.class_names[label] for label in store.box_label[store.boxes_of_image(image)]]
        assert sorted(name for text in texts(ax) for name in text.split('\n')) == sorted(labels)
        assert len(ax.patches) == len(texts(ax)) <= len(labels)
    assert any('\n' in text for ax in figure.axes for text in texts(ax)), 'some object has several labels'
    with Image.open(save(figure, tmp_path / 'sheet.png')) as image:
        assert image.size[0] > 1000
    assert [path.name for path in tmp_path.iterdir()] == ['sheet.png']


def test_predictions_above_the_threshold_are_drawn_with_each_class_once_and_ancestors_folded(tiny_data, tmp_path):
    store = AnnotationStore(tiny_data / 'validation')
    child = int(store.hierarchy.depth.argmax())
    parent, *_ = store.hierarchy.ancestors(child)
    related = store.hierarchy.ancestor_matrix
    other = next(k for k in range(store.num_classes) if not related[[child, k]][:, [k, child]].any() and k != child)
    found = Detections(
        image=np.full(5, 1),
        label=np.array([parent, child, other, child, 2]),
        score=np.array([0.95, 0.9, 0.8, 0.5, 0.1]),
        box=np.array([[0.1, 0.1, 0.5, 0.5]] * 4 + [[0, 0, 1, 1]]),
    )
    first, second = draw_predictions(store, write_for(store, tmp_path / 'predictions', found), [0, 1]).axes
    assert texts(first) == []
    names = store.class_names
    assert texts(second) == [f'{names[child]} 0.90\n{names[other]} 0.80\n↑ {names[parent]}']


@pytest.mark.parametrize('dpi', [100, 120, 150])
def test_labels_stay_in_the_image_and_cover_no_other_label(dpi):
    corner, wide = (0, 0, 0.05, 0.1), (0, 0, 1, 1)
    boxes = (corner, corner, corner, (0.95, 0, 1, 0.1), (0, 0.9, 0.05, 1), (0.95, 0.9, 1, 1), wide, wide)
    ax = drawn(*((box, ['A long class name', 'another'], GREY) for box in boxes))
    ax.figure.set_dpi(dpi)
    ax.figure.canvas.draw()
    place, margin = ax.get_window_extent(), 3  # pixels
    labels = [text.get_bbox_patch().get_window_extent(ax.figure.canvas.get_renderer()) for text in ax.texts]
    assert len(labels) == 8
    for k, label in enumerate(labels):
        assert place.x0 - margin <= label.x0 and label.x1 <= place.x1 + margin
        assert place.y0 - margin <= label.y0 and label.y1 <= place.y1 + margin
        for other in labels[:k]:
            width = min(label.x1, other.x1) - max(label.x0, other.x0)
            height = min(label.y1, other.y1) - max(label.y0, other.y0)
            assert min(width, height) <= margin


def test_labels_without_room_are_counted_in_the_title():
    ax = drawn(*[((0.4, 0.4, 0.6, 0.6), ['A long class name', 'another'], GREY)] * 200)
    assert len(ax.texts) > 20
    assert ax.get_title(loc='left') == f'image   {200 - len(ax.texts)} labels without room'


def test_group_of_boxes_are_dashed_grey_boxes_thin_and_dollar_signs_are_not_mathematics(tmp_path):
    ax = drawn(((0.1, 0.1, 0.3, 0.6), ['Girl', 'Costs $x_$'], '#0072b2', True), ((0.4, 0.1, 0.5, 0.2), [], GREY))
    group, bare = ax.patches
    assert texts(ax) == ['Girl\nCosts $x_$']
    assert group.get_linestyle() != 'solid' and bare.get_linestyle() == 'solid'
    assert to_hex(bare.get_edgecolor()) == GREY and bare.get_linewidth() < group.get_linewidth()
    assert save(ax.figure, tmp_path / 'sheet.png').exists()


def test_unreadable_images_are_drawn_grey_and_named(tiny_data, monkeypatch):
    store = AnnotationStore(tiny_data / 'train')
    monkeypatch.setattr(store, 'file_name', {0: 'missing.jpg', 1: '../metadata.json'}.__getitem__)
    read = ImageReader(store)
    assert (read(0) == 204).all() and read(0).shape == (store.height[0], store.width[0], 3)
    assert (read(1) == 204).all()
    assert [Path(path).name for path in read.unreadable] == ['missing.jpg', 'metadata.json']
