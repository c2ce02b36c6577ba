"""Images with one box per object and all its labels."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image

from mmoid.openimages.predictions.prediction_store import PredictionStore, write_predictions
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.visualization import draw_annotations, draw_predictions, save
from mmoid.visualization.label_sets import GREY, draw_box, objects_of, sheet, show_image


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_an_object_has_one_box_with_all_its_labels(tiny_data, tmp_path):
    store = AnnotationStore(tiny_data / 'train')
    figure = draw_annotations(store, range(12))
    for image, ax in enumerate(figure.axes):
        labels = [store.class_names[label] for label in store.box_label[store.boxes_of_image(image)]]
        assert sorted(name for text in texts(ax) for name in text.split('\n')) == sorted(labels)
        assert len(ax.patches) == len(texts(ax)) <= len(labels)
    assert any('\n' in text for ax in figure.axes for text in texts(ax)), 'some object has several labels'
    with Image.open(save(figure, tmp_path / 'sheet.png')) as image:
        assert image.size[0] > 1000
    assert [path.name for path in tmp_path.iterdir()] == ['sheet.png']


def test_predictions_above_the_threshold_are_drawn_on_their_image(tiny_data, tmp_path):
    store = AnnotationStore(tiny_data / 'validation')
    write_predictions(
        tmp_path / 'predictions',
        image_ids=[store.image_id(1)],
        detections_per_image=np.array([3]),
        label=np.array([0, 1, 2]),
        score=np.array([0.9, 0.8, 0.1]),
        box=np.array([[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.5], [0, 0, 1, 1]]),
        label_names=store.label_names,
        class_names=store.class_names,
    )
    figure = draw_predictions(store, PredictionStore(tmp_path / 'predictions'), [0, 1])
    first, second = figure.axes
    assert texts(first) == []
    assert texts(second) == [f'{store.class_names[0]} 0.90\n{store.class_names[1]} 0.80']


def test_labels_stay_in_the_image():
    figure, (ax,) = sheet(1, 'title')
    show_image(ax, np.zeros((100, 200, 3), np.uint8), 'image')
    for box in ((0, 0, 10, 10), (190, 0, 200, 10), (0, 90, 10, 100), (190, 90, 200, 100), (0, 0, 200, 100)):
        draw_box(ax, np.array(box), ['A long class name', 'another'], GREY)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    place, margin = ax.get_window_extent(), 3  # pixels
    for text in ax.texts:
        label = text.get_bbox_patch().get_window_extent(canvas.get_renderer())
        assert place.x0 - margin <= label.x0 and label.x1 <= place.x1 + margin
        assert place.y0 - margin <= label.y0 and label.y1 <= place.y1 + margin


def test_group_of_boxes_are_dashed_and_dollar_signs_are_not_mathematics():
    _, (ax,) = sheet(1, 'title')
    show_image(ax, np.zeros((100, 200, 3), np.uint8), 'image')
    draw_box(ax, np.array([10, 10, 60, 60]), ['Girl', 'Costs $5'], '#0072b2', dashed=True)
    draw_box(ax, np.array([80, 10, 90, 20]), [], GREY)
    group, bare = ax.patches
    assert texts(ax) == ['Girl\nCosts \\$5']
    assert group.get_linestyle() != 'solid' and bare.get_linestyle() == 'solid'
    assert to_hex(bare.get_edgecolor()) == GREY


def test_boxes_on_one_object_are_grouped():
    box = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 9.5]])
    assert [members.tolist() for members in objects_of(box, 0.9)] == [[0, 2], [1]]
    assert objects_of(np.zeros((0, 4)), 0.9) == []


@pytest.mark.parametrize('count', [0, 1, 5])
def test_a_sheet_has_one_place_per_image(count, tmp_path):
    figure, axes = sheet(count, 'title')
    assert len(axes) == len(figure.axes) == count
    assert save(figure, tmp_path / 'sheet.png').exists()
