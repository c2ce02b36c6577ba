"""Prediction CSVs of both formats."""

import gzip

import numpy as np
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions.csv_files import open_predictions, read_image_list, read_predictions
from tests.openimages.predictions.prediction_cases import (
    CLASSES,
    Row,
    image_names,
    make_store,
    random_rows,
    rows_csv,
    rows_of,
    submission_csv,
)

ROWS = 'ImageID,LabelName,Score,XMin,XMax,YMin,YMax\n'
SUBMISSION = 'ImageId,PredictionString\n'


@pytest.mark.parametrize('seed', range(5))
def test_both_formats_give_the_rows_of_the_file(tmp_path, seed):
    rows = random_rows(np.random.default_rng(seed))
    (tmp_path / 'rows.csv').write_text(rows_csv(rows))
    (tmp_path / 'submission.csv').write_text(submission_csv(rows, image_names()))
    assert rows_of(read_predictions(tmp_path / 'rows.csv', CLASSES)) == rows
    submission = read_predictions(tmp_path / 'submission.csv', CLASSES)
    assert rows_of(submission) == rows
    assert submission.image_ids() == image_names(), 'images without detections are kept'


def test_rows_in_any_order_are_grouped_by_image(tmp_path):
    rows = random_rows(np.random.default_rng(0))
    shuffled = [rows[k] for k in np.random.default_rng(1).permutation(len(rows))]
    (tmp_path / 'rows.csv').write_text(rows_csv(shuffled))
    read = read_predictions(tmp_path / 'rows.csv', CLASSES)
    ids = list(dict.fromkeys(row.image for row in shuffled))
    assert read.image_ids() == ids
    assert rows_of(read) == sorted(shuffled, key=lambda row: ids.index(row.image))


def test_columns_may_have_any_order_and_files_may_be_compressed(tmp_path):
    (tmp_path / 'rows.csv').write_text(
        'YMax,YMin,XMax,Extra,XMin,Score,LabelName,ImageId\n.4,.2,.3,?,.1,.5,/m/apple,a\n'
    )
    expected = [Row('a', 0, 0.5, (0.1, 0.2, 0.3, 0.4))]
    assert rows_of(read_predictions(tmp_path / 'rows.csv')) == expected
    for name, text in (
        ('rows', rows_csv(expected)),
        ('submission', 'ImageID,PredictionString\na, /m/apple  0.5 0.1 0.2 0.3 0.4 \n'),
    ):
        with gzip.open(tmp_path / f'{name}.csv.gz', 'wt') as stream:
            stream.write(text)
        assert rows_of(read_predictions(tmp_path / f'{name}.csv.gz', CLASSES)) == expected


@pytest.mark.parametrize('header', [ROWS.replace('Score', name) for name in ('Conf', 'Confidence')] + [ROWS.lower()])
def test_columns_may_have_any_usual_name_and_files_any_line_end(tmp_path, header):
    (tmp_path / 'rows.csv').write_bytes(
        b'\xef\xbb\xbf' + (header + 'a,/m/apple,0.5,0,1,0,1\n').replace('\n', '\r\n').encode()
    )
    assert rows_of(read_predictions(tmp_path / 'rows.csv', CLASSES)) == [Row('a', 0, 0.5, (0, 0, 1, 1))]


@pytest.mark.parametrize('kind', ['rows', 'submission', 'store'])
def test_bad_boxes_are_left_out_and_scores_are_clipped_and_both_are_counted(tmp_path, kind):
    boxes = [(0, 0, 1.5, 1), (0.5, 0, 0.25, 1), (0.25, 0.1, 0.25, 1), (0, 0, 1, 1)]
    rows = [Row('a', 0, score, box) for score, box in zip((1.0000001, 0.9, 0.8, 0.6), boxes)]
    path = tmp_path / kind
    if kind == 'store':
        make_store(path, rows, ['a'])
    else:
        path.write_text(rows_csv(rows) if kind == 'rows' else submission_csv(rows, ['a']))
    read = open_predictions(path, CLASSES)
    place = {'rows': 'rows:3', 'submission': 'submission:2: detection 2', 'store': "store: image 'a'"}[kind]
    assert read.left_out == {f'without area or with swapped corners (first: {path.parent}/{place})': 2}
    assert [reason.split(' (')[0] for reason in read.changed] == [
        *(['scores outside [0, 1] by rounding, clipped'] if kind != 'store' else []),
    ]
    assert [row.box for row in rows_of(read)] == [boxes[0], boxes[3]]
    assert read.score.max() == (pytest.approx(1, abs=1e-6) if kind == 'store' else 1)


def test_a_store_with_a_number_that_is_none_is_refused(tmp_path):
    store = make_store(tmp_path / 'store', [Row('a', 0, float('nan'), (0, 0, 1, 1))], ['a'])
    with pytest.raises(AnnotationError, match=r"store: image 'a': Score = nan must be a finite number"):
        open_predictions(store.path)


def test_without_given_classes_they_are_those_in_the_file(tmp_path):
    (tmp_path / 'a.csv').write_text(ROWS + 'a,/m/z,1,0,1,0,1\nb,/m/y,1,0,1,0,1\nc,/m/z,1,0,1,0,1\n')
    (tmp_path / 'b.csv').write_text(SUBMISSION + 'a,/m/z 1 0 0 1 1 /m/y 1 0 0 1 1\nb,/m/z 1 0 0 1 1\n')
    for name, label in (('a.csv', [0, 1, 0]), ('b.csv', [0, 1, 0])):
        read = read_predictions(tmp_path / name)
        assert (read.label_names, read.label.tolist()) == (('/m/z', '/m/y'), label)


@pytest.mark.parametrize('text', [ROWS, SUBMISSION, SUBMISSION + 'a,\nb,""\n'])
def test_files_without_detections_are_no_error(tmp_path, text):
    (tmp_path / 'empty.csv').write_text(text)
    read = read_predictions(tmp_path / 'empty.csv', CLASSES)
    assert (len(read.label), read.box.shape, read.num_images) == (0, (0, 4), len(text.splitlines()) - 1)


@pytest.mark.parametrize(
    'text',
    [
        ROWS + 'a,/m/apple,1,0,1,0,1\na,/m/car,1,0,1,0,1\nb,/m/car,1,0,1,0,1\n',
        SUBMISSION + 'a,/m/apple 1 0 0 1 1 /m/car 1 0 0 1 1\nb,/m/car 1 0 0 1 1\n',
    ],
)
def test_detections_of_other_classes_are_an_error_or_dropped_and_counted(tmp_path, text):
    path = tmp_path / 'predictions.csv'
    path.write_text(text)
    line = 3 if text.startswith(ROWS) else 2
    with pytest.raises(AnnotationError, match=rf"csv:{line}: .*'/m/car' is not a class of .*--other-classes drop"):
        read_predictions(path, CLASSES)
    read = read_predictions(path, CLASSES, other_classes='drop')
    assert rows_of(read) == [Row('a', 0, 1.0, (0, 0, 1, 1))]
    assert read.left_out == {'of other classes (first: /m/car)': 2}
    assert read.image_ids() == ['a', 'b']


GOOD = '/m/apple 1 0 0 1 1'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('A,B\n', r'csv:1: has no column ImageID; it has A, B'),
        (
            '[{"image_id": 1, "score": 0.9}]',
            r'csv:1: is JSON, such as COCO results, which are not read; expected a CSV',
        ),
        (
            'ImageID,Source,LabelName,Confidence,XMin\n',
            r'csv:1: has the columns of annotations, ImageID, Source, .*; exp',
        ),
        ('ImageID,Score\n', r'csv:1: has no column LabelName; it has ImageID, Score'),
        (ROWS.replace('YMax', 'Y'), r'csv:1: has no column YMax'),
        (ROWS + 'a,/m/apple,x,0,1,0,1\n', r"csv:2: Score: .* invalid value 'x'"),
        (ROWS + 'a,/m/apple,1,0,1,0,1\na,/m/apple,nan,0,1,0,1\n', r'csv:3: Score = nan must be a finite number'),
        (ROWS + 'a,/m/apple,95,0,1,0,1\n', r'csv:2: Score = 95 is outside \[0, 1\]'),
        (ROWS + 'a,/m/apple,1,0,640,0,1\n', r'csv:2: XMax = 640 is far outside \[0, 1\]; coordinates are fractions'),
        (ROWS + 'a,/m/apple,1,0,1\n', r'csv:2: Expected 7 columns, got 5'),
        (ROWS + 'a,/m/apple,,0,1,0,1\n', r'csv:2: Score is empty'),
        (SUBMISSION + f'a,{GOOD}\n\nb,{GOOD} /m/apple\n', r'csv:4: PredictionString has 7 values, not a multiple of 6'),
        (SUBMISSION + f'a,{GOOD}\nb,{GOOD} {GOOD} /m/apple 1 0 x 1 1\n', r"csv:3: detection 3: YMin = 'x' is not a"),
        (SUBMISSION + f'a,{GOOD} /m/apple inf 0 0 1 1\n', r'csv:2: detection 2: Score = inf must be a finite number'),
        (SUBMISSION + f'a,{GOOD} /m/apple 1 0 0 1 -9\n', r'csv:2: detection 2: YMax = -9 is far outside'),
        (SUBMISSION + f'a,{GOOD}\nb,\na,\n', r"csv:4: image 'a' is already on line 2"),
        (SUBMISSION + f'a,{GOOD}\nb,1,2\n', r'csv:3: Expected 2 columns, got 3'),
    ],
)
def test_errors_name_file_and_line(tmp_path, text, message):
    path = tmp_path / 'predictions.csv'
    path.write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read_predictions(path, CLASSES)


def test_errors_after_very_long_rows_name_their_line(tmp_path):
    path = tmp_path / 'predictions.csv'
    long = ' '.join([GOOD] * 10_000)
    path.write_text(SUBMISSION + f'a,{long}\nb,/m/apple\n')
    with pytest.raises(AnnotationError, match='csv:3: PredictionString has 1 values'):
        read_predictions(path, CLASSES)
    path.write_text(SUBMISSION + f'a,{long}\n')
    assert len(read_predictions(path).label) == 10_000


def test_an_image_list_is_a_csv_or_has_an_id_in_each_line(tmp_path):
    for text in (
        'ImageID,PredictionString\nb,x\na,\nb,y\n',
        'ImageId\nb\na\n',
        'image_id,w\nb,1\na,2\n',
        'b\r\na\r\n\r\n',
    ):
        (tmp_path / 'images.csv').write_text(text, newline='')
        assert read_image_list(tmp_path / 'images.csv') == ['b', 'a']
    (tmp_path / 'images.csv').write_text('Name,Size\na,1\n')
    with pytest.raises(AnnotationError, match=r'images\.csv:1: has no column ImageID'):
        read_image_list(tmp_path / 'images.csv')
