"""The figures, drawn from real data."""

import numpy as np
from PIL import Image

from mmoid.openimages.predictions.prediction_store import PredictionStore, write_predictions
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.visualization import draw_annotations, draw_predictions, draw_training, save


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_one_box_is_drawn_for_an_object_with_all_its_labels(tiny_data, tmp_path):
    store = AnnotationStore(tiny_data / 'train')
    figure = draw_annotations(store, range(12))
    for image, ax in enumerate(figure.axes):
        labels = [store.class_names[label] for label in store.box_label[store.boxes_of_image(image)]]
        assert sorted(name for text in texts(ax) for name in text.split('\n')) == sorted(labels)
        assert len(ax.patches) == len(texts(ax)) <= len(labels)
    with Image.open(save(figure, tmp_path / 'sheet.png')) as picture:
        assert picture.size[0] > 1000
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
    first, second = figure.axes[:2]
    assert texts(first) == []
    assert texts(second) == [f'{store.class_names[0]} 0.90\n{store.class_names[1]} 0.80']


def test_the_course_of_a_training(tmp_path):
    figure = draw_training([1, 2], [0.2, 0.5], [0.5, 1.5], [3.0, 2.0], [0.01, 0.001], [('a', 0, 1), ('b', 1, 2)])
    top = figure.axes[0]
    assert [line.get_ydata().tolist() for line in top.lines] == [[0.2, 0.5]]
    assert {'a', 'b', '0.200', '0.500'} <= set(texts(top))
    assert save(figure, tmp_path / 'sub' / 'training.png').exists()
