"""The metric on files: the official figures, and other ways to the same figures."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric import evaluator as evaluation
from mmoid.openimages.metric.annotations import annotations_of_store, read_annotations
from mmoid.openimages.metric.evaluator import Protocol, evaluate_predictions
from mmoid.openimages.metric.result import read_ap
from mmoid.openimages.predictions.csv_files import read_predictions, write_submission
from tests.official_files import write_files
from tests.openimages.metric.metric_cases import store_of_case
from tests.openimages.predictions.prediction_cases import Row, make_store
from tests.real_stores import METRIC_CASES, metric_case


@pytest.fixture(params=METRIC_CASES)
def case(request):
    return metric_case(request.param)


def annotations_of(folder: Path):
    return read_annotations(
        folder / 'boxes.csv', folder / 'classes.csv', folder / 'hierarchy.json', folder / 'labels.csv'
    )


def with_float32_scores(predictions):
    """As a submission rounds them, which may make two of them equal."""
    return replace(predictions, score=predictions.score.astype(np.float32))


def assert_official(figures: dict, folder: Path, protocol: str) -> None:
    """Compares what ``--out`` writes with the figures of the official evaluator."""
    expected = json.loads((folder / f'expected_{protocol}.json').read_text())
    assert figures['mAP'] == pytest.approx(expected['mAP'], rel=0, abs=1e-9)
    assert {name for name, ap in figures['AP'].items() if ap is None} == {
        name for name, ap in expected['AP'].items() if ap is None
    }
    for name, ap in expected['AP'].items():
        assert figures['AP'][name] == (ap if ap is None else pytest.approx(ap, rel=0, abs=1e-9))
    for key in ('num_gt', 'num_scored', 'sum_tp', 'num_images', 'group_of_weight', 'iou', 'metric'):
        assert figures[key] == expected[key]


@pytest.mark.parametrize('protocol', ['challenge', 'v2_unexpanded'])
def test_the_figures_are_the_official_ones(case, protocol, tmp_path):
    annotations = annotations_of(case)
    predictions = read_predictions(case / 'predictions.csv', annotations.classes)
    result = evaluate_predictions(annotations, predictions, Protocol(protocol.removesuffix('_unexpanded')))
    result.write_json(tmp_path / 'out.json')
    assert_official(json.loads((tmp_path / 'out.json').read_text()), case, protocol)


def test_a_store_small_chunks_and_another_order_of_classes_give_the_same_figures(case, tmp_path, monkeypatch):
    store = store_of_case(case, tmp_path)
    annotations = annotations_of(case)
    names = annotations.classes.subset(range(len(annotations.classes))[::-1])
    predictions = with_float32_scores(read_predictions(case / 'predictions.csv', names))
    for expand in (False, True):
        protocol = Protocol(expand_detections=expand)
        whole = evaluate_predictions(annotations, predictions, protocol)
        with monkeypatch.context() as patch:
            patch.setattr(evaluation, 'DETECTIONS_AT_ONCE', 50)
            pieces = evaluate_predictions(annotations_of_store(store), predictions, protocol)
        np.testing.assert_array_equal(whole.ap, pieces.ap)
        assert whole.description == pieces.description and whole.left_out == pieces.left_out


def test_expanding_detections_equals_evaluating_a_submission_with_ancestors(case, tmp_path):
    annotations = annotations_of(case)
    predictions = with_float32_scores(read_predictions(case / 'predictions.csv', annotations.classes))
    expanded = evaluate_predictions(annotations, predictions, Protocol(expand_detections=True))
    write_submission(tmp_path / 'out.csv', predictions, hierarchy=annotations.hierarchy)
    submission = read_predictions(tmp_path / 'out.csv', annotations.classes)
    submitted = evaluate_predictions(annotations, submission)
    np.testing.assert_allclose(submitted.ap, expanded.ap, rtol=0, atol=1e-12)
    plain = evaluate_predictions(annotations, predictions)
    assert 'detections as predicted' in plain.description and 'detections expanded' in expanded.description
    assert not np.array_equal(expanded.scored, plain.scored)


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path / 'official', images=False)


@pytest.fixture
def annotations(files):
    return read_annotations(files['boxes'], files['classes'], files['hierarchy'], files['image_labels'])


def test_the_json_and_the_table_hold_all_figures(annotations, tmp_path):
    boxes = [(0.25, 0.25, 0.75, 0.75), (0, 0, 0.1, 0.1), (0, 0, 1, 1)]
    rows = [Row('c2', 2, 0.9, boxes[0]), Row('c2', 2, 0.5, boxes[1]), Row('elsewhere', 0, 0.5, boxes[2])]
    result = evaluate_predictions(annotations, make_store(tmp_path / 'store', rows, ['c2', 'elsewhere']))
    result.write_json(tmp_path / 'out.json')
    result.write_table(tmp_path / 'out.csv')
    figures = json.loads((tmp_path / 'out.json').read_text())
    assert figures['mAP'] == result.mean_ap == pytest.approx((0 + 0 + 1 / 4 + 0) / 4)
    assert figures['AP'] == {'/m/apple': 0, '/m/orange': 0, '/m/fruit': 0.25, '/m/bench1': 0, '/m/bench2': None}
    groups = {name: group['mAP'] for name, group in figures['groups'].items()}
    assert groups == dict(leaf=0, parent=0.25, level1=0.125, level2=0)
    assert figures['num_gt'] == {'/m/apple': 2, '/m/orange': 1, '/m/fruit': 4, '/m/bench1': 1, '/m/bench2': 0}
    assert figures['left_out'] == {'on images that are not annotated (first: elsewhere)': 1}
    assert (figures['num_detections'], figures['num_images'], figures['num_classes_with_ground_truth']) == (3, 4, 4)
    assert figures['num_images_without_detections'] == 3
    description = (
        'Open Images Challenge metric, ground truth expanded, with image-level labels, group-of weight 1, detections '
        'as predicted, IoU 0.5, 4 images, 4 of 5 classes'
    )
    assert figures['protocol'] == result.description == description
    assert (tmp_path / 'out.csv').read_text().splitlines() == [
        '"LabelName","ClassName","AP","num_gt","num_scored","sum_tp","level","leaf"',
        '"/m/apple","Apple",0,2,0,0,2,true',
        '"/m/orange","Orange",0,1,0,0,2,true',
        '"/m/fruit","Fruit",0.25,4,2,1,1,false',
        '"/m/bench1","Bench (/m/bench1)",0,1,0,0,1,true',
        '"/m/bench2","Bench (/m/bench2)",,0,0,0,1,true',
    ]
    read = read_ap(tmp_path / 'out.json')
    assert read['/m/fruit'] == 0.25 and math.isnan(read['/m/bench2'])


def test_detections_of_other_classes_are_an_error_or_dropped(annotations, tmp_path):
    rows = [Row('c2', 0, 0.9, (0.25, 0.25, 0.75, 0.75)), Row('c2', 1, 0.9, (0.25, 0.25, 0.75, 0.75))]
    store = make_store(tmp_path / 'store', rows, ['c2'], ['/m/car', '/m/fruit', '/m/never_found'])
    with pytest.raises(AnnotationError, match="store: '/m/car' is not a class of .*--other-classes drop"):
        evaluate_predictions(annotations, store)
    result = evaluate_predictions(annotations, store, other_classes='drop')
    assert result.ap[annotations.classes.label_names.index('/m/fruit')] == 0.25
    assert (result.num_detections, result.left_out) == (2, {'of other classes (first: /m/car)': 1})


@pytest.mark.parametrize(
    ('images', 'ids', 'message'),
    [
        ([], [], "has no detection of .* on the 4 annotated images, first 'b1', of which it has 0; give .*predicted$"),
        ([], ['c2'], 'of which it has 1; give'),
        (['x9'], ['c2', 'x9'], r'predicted \(1 left out: on images that are not annotated \(first: x9\)'),
        ([], ['c2', 'b1', 'c2'], "'c2' and 'c2' are the same image; expected each image once"),
        ([], ['c2', 'train/c2.jpg'], "'c2' and 'train/c2.jpg' are the same image; expected each image once"),
    ],
)
def test_nothing_to_evaluate_and_images_that_occur_twice_are_errors(annotations, tmp_path, images, ids, message):
    store = make_store(tmp_path / 'store', [Row(image, 0, 0.5, (0, 0, 1, 1)) for image in images], ids)
    with pytest.raises(AnnotationError, match=f'store: .*{message}'):
        evaluate_predictions(annotations, store)


@pytest.mark.parametrize('spelling', ['{}.jpg', 'train/{}', 'a\\{}.PNG'])
def test_other_spellings_of_image_ids_give_the_same_figures(files, annotations, tmp_path, spelling):
    rows = [Row('c2', 2, 0.9, (0.25, 0.25, 0.75, 0.75)), Row('b1', 0, 0.5, (0, 0, 0.1, 0.1))]
    expected = evaluate_predictions(annotations, make_store(tmp_path / 'plain', rows, ['b1', 'c2']))
    other = [row._replace(image=spelling.format(row.image)) for row in rows]
    predictions = make_store(tmp_path / 'other', other, [row.image for row in other[::-1]])
    assert evaluate_predictions(annotations, predictions).as_json() == expected.as_json()
    header, *lines = Path(files['image_labels']).read_text().splitlines()
    respelled = [','.join([spelling.format(line.split(',')[0]), *line.split(',')[1:]]) for line in lines]
    Path(files['image_labels']).write_text('\n'.join([header, *respelled]))
    joined = read_annotations(files['boxes'], files['classes'], files['hierarchy'], files['image_labels'])
    assert evaluate_predictions(joined, predictions).as_json() == expected.as_json()


def test_a_hierarchy_is_needed_only_by_some_protocols(files, tmp_path):
    annotations = read_annotations(files['boxes'], files['classes'])
    store = make_store(tmp_path / 'store', [Row('c2', 0, 0.9, (0, 0, 0.1, 0.1))], ['c2'])
    assert evaluate_predictions(annotations, store, Protocol('v2')).mean_ap == 0
    with pytest.raises(ValueError, match='hierarchy: is needed for the challenge protocol'):
        evaluate_predictions(annotations, store)
    with pytest.raises(ValueError, match='hierarchy: is needed for expanding detections'):
        evaluate_predictions(annotations, store, Protocol('v2', expand_detections=True))


def test_errors_name_the_cause(files, tmp_path):
    (tmp_path / 'classes.csv').write_text('/m/apple,Apple\n/m/fruit,Fruit\n/m/bench1,B\n/m/bench2,C\n')
    with pytest.raises(
        AnnotationError, match=r"boxes\.csv:3: '/m/orange' is not a class of .*classes.csv; give .*--store"
    ):
        read_annotations(files['boxes'], tmp_path / 'classes.csv', files['hierarchy'])
    with pytest.raises(ValueError, match=r"protocol must be one of challenge, v2, got 'coco'"):
        Protocol('coco')
    with pytest.raises(ValueError, match=r'iou_threshold must be in \(0, 1\], got 0'):
        Protocol(iou_threshold=0)
    with pytest.raises(ValueError, match='ancestor_nms must be between 0 and 1, got 1'):
        Protocol(ancestor_nms=1)
    for text in ('{"mAP": 1}', '[]', 'no JSON', '{"AP": {"/m/apple": "x"}}'):
        (tmp_path / 'other.json').write_text(text)
        with pytest.raises(AnnotationError, match=r"other\.json: not a JSON with 'AP' by MID"):
            read_ap(tmp_path / 'other.json')
