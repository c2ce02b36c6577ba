"""Prediction CSVs of both formats; submissions read back and compared with a plain restatement."""

import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions import csv_files
from mmoid.openimages.predictions.csv_files import open_predictions, read_image_list, read_predictions, write_submission
from mmoid.openimages.store.summary import Summary
from tests.official_files import LABEL_NAMES, TREE
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


@pytest.fixture
def read(tmp_path):
    """Reads a text as a file."""

    def write_and_read(text, *arguments, name='predictions.csv', **options):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith('.gz') else data)
        return read_predictions(tmp_path / name, *arguments, **options)

    return write_and_read


@pytest.mark.parametrize('seed', range(5))
def test_both_formats_give_the_rows_of_the_file(read, seed):
    rows = random_rows(np.random.default_rng(seed))
    assert rows_of(read(rows_csv(rows), CLASSES)) == rows
    submission = read(submission_csv(rows, image_names()), CLASSES)
    assert rows_of(submission) == rows
    assert submission.image_ids() == image_names(), 'images without detections are kept'
    shuffled = [rows[k] for k in np.random.default_rng(1).permutation(len(rows))]
    grouped = read(rows_csv(shuffled), CLASSES)
    ids = list(dict.fromkeys(row.image for row in shuffled))
    assert grouped.image_ids() == ids
    assert rows_of(grouped) == sorted(shuffled, key=lambda row: ids.index(row.image))


ONE = 'a,/m/apple,0.5,0.1,0.3,0.2,0.4\n'


@pytest.mark.parametrize(
    'text',
    [
        'YMax,YMin,XMax,Extra,XMin,Score,LabelName,ImageId\n.4,.2,.3,?,.1,.5,/m/apple,a\n',
        'ImageID,PredictionString\na, /m/apple  0.5 0.1 0.2 0.3 0.4 \n',
        ROWS.replace('Score', 'Conf') + ONE,
        ROWS.replace('Score', 'Confidence') + ONE,
        ROWS.lower() + ONE,
        '\ufeff' + (ROWS + ONE).replace('\n', '\r\n'),
        '\n' + (ROWS + ONE).replace(',', ', '),
    ],
)
@pytest.mark.parametrize('name', ['rows.csv', 'rows.csv.gz'])
def test_columns_may_have_any_order_and_usual_name_and_files_may_be_compressed(read, text, name):
    assert rows_of(read(text, CLASSES, name=name)) == [Row('a', 0, 0.5, (0.1, 0.2, 0.3, 0.4))]


@pytest.mark.parametrize('kind', ['rows', 'submission', 'store'])
def test_bad_boxes_are_left_out_and_scores_are_clipped_and_both_are_counted(tmp_path, kind):
    boxes = [(0, 0, 1.5, 1), (0.5, 0, 0.25, 1), (0.25, 0.1, 0.25, 1), (0, 0, 1, 1)]
    rows = [Row('a', 0, score, box) for score, box in zip((1.0000001, 0.9, 0.8, 0.6), boxes)]
    path = tmp_path / kind
    if kind == 'store':
        make_store(path, rows, ['a'])
    else:
        path.write_text(rows_csv(rows) if kind == 'rows' else submission_csv(rows, ['a']))
    found = open_predictions(path, CLASSES)
    place = {'rows': 'rows:3', 'submission': 'submission:2: detection 2', 'store': "store: image 'a'"}[kind]
    reason = f'without area or with swapped corners (first: {path.parent}/{place})'
    assert found.summary.by_reason('dropped') == {reason: 2}
    clipped = [] if kind == 'store' else ['scores outside [0, 1] by rounding, clipped']
    assert [reason.split(' (')[0] for reason in found.summary.changed] == clipped
    assert [row.box for row in rows_of(found)] == [boxes[0], boxes[3]]
    assert found.score.max() == (pytest.approx(1, abs=1e-6) if kind == 'store' else 1)


def test_a_store_with_a_number_that_is_none_or_one_image_in_two_spellings_is_refused(tmp_path):
    for rows, ids, message in (
        ([Row('a', 0, float('nan'), (0, 0, 1, 1))], ['a'], "image 'a': Score = nan must be a finite number"),
        ([], ['b', 'a', 'val/a.jpg'], r"'a' and 'val/a\.jpg' are the same image; expected each image once"),
    ):
        store = make_store(tmp_path / 'store', rows, ids)
        with pytest.raises(AnnotationError, match=f'store: {message}'):
            open_predictions(store.path)


@pytest.mark.parametrize(
    'text',
    [
        ROWS + 'a,/m/z,1,0,1,0,1\na,/m/y,1,0,1,0,1\nb,/m/z,1,0,1,0,1\n',
        SUBMISSION + 'a,/m/z 1 0 0 1 1 /m/y 1 0 0 1 1\nb,/m/z 1 0 0 1 1\n',
    ],
)
def test_without_given_classes_they_are_those_in_the_file(read, text):
    assert (read(text).label_names, read(text).label.tolist()) == (('/m/z', '/m/y'), [0, 1, 0])


@pytest.mark.parametrize('text', [ROWS, SUBMISSION, SUBMISSION + 'a,\nb,""\n'])
def test_files_without_detections_are_no_error(read, text):
    found = read(text, CLASSES)
    assert (len(found.label), found.box.shape, found.num_images) == (0, (0, 4), len(text.splitlines()) - 1)


@pytest.mark.parametrize(
    ('text', 'line'),
    [
        (ROWS + 'a,/m/apple,1,0,1,0,1\na,/m/car,1,0,1,0,1\nb,/m/car,1,0,1,0,1\n', 3),
        (SUBMISSION + 'a,/m/apple 1 0 0 1 1 /m/car 1 0 0 1 1\nb,/m/car 1 0 0 1 1\n', 2),
    ],
)
def test_detections_of_other_classes_are_an_error_or_dropped_and_counted(read, text, line):
    with pytest.raises(AnnotationError, match=rf"csv:{line}: .*'/m/car' is not a class of .*--other-classes drop"):
        read(text, CLASSES)
    found = read(text, CLASSES, other_classes='drop')
    assert rows_of(found) == [Row('a', 0, 1.0, (0, 0, 1, 1))]
    assert found.summary.by_reason('dropped') == {'of other classes (first: /m/car)': 2}
    assert found.image_ids() == ['a', 'b']


GOOD = '/m/apple 1 0 0 1 1'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('A,B\n', r'csv:1: has no column ImageID; it has A, B'),
        ('[{"image_id": 1, "score": 0.9}]', r'csv:1: is JSON, such as COCO results, which .*; expected a CSV'),
        ('ImageID,Source,LabelName,Confidence,XMin\n', r'csv:1: has the columns of annotations, ImageID, Source, '),
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
def test_errors_name_file_and_line(read, text, message):
    with pytest.raises(AnnotationError, match=message):
        read(text, CLASSES)


def test_a_file_that_is_no_text_is_refused_with_what_to_do(read, tmp_path):
    for name, data, remedy in (
        ('a.pkl', b'\x80\x04', 'is a pickle, which is never read; write a folder with mmoid test --out'),
        ('a.csv', gzip.compress(ROWS.encode()), r'cannot be read \(.*\); it is compressed: name it \.csv\.gz'),
        ('a.csv', ROWS.encode('utf-16'), r'cannot be read \(.*\); expected a text in UTF-8'),
    ):
        with pytest.raises(AnnotationError, match=rf'{name}: {remedy}'):
            read(data, name=name)
    (tmp_path / 'ids.txt.gz').write_bytes(gzip.compress(b'b\na\n'))
    assert read_image_list(tmp_path / 'ids.txt.gz') == ['b', 'a']


def test_errors_after_very_long_rows_name_their_line(read):
    long = SUBMISSION + f'a,{" ".join([GOOD] * 10_000)}\n'
    with pytest.raises(AnnotationError, match='csv:3: PredictionString has 1 values'):
        read(long + 'b,/m/apple\n', CLASSES)
    assert len(read(long).label) == 10_000


def test_an_image_list_is_a_csv_or_has_an_id_in_each_line(tmp_path):
    for text in (
        'ImageID,PredictionString\nb,x\na,\nb,y\n',
        'ImageId\nb\na\n',
        'image_id,w\nb,1\na,2\n',
        'b\r\na\r\n\r\n',
        'ImageID , w\n b , 1\na,2\n',
    ):
        (tmp_path / 'images.csv').write_text(text, newline='')
        summary = Summary()
        assert read_image_list(tmp_path / 'images.csv', summary) == ['b', 'a']
        again = ['changed: 1 image ids that the list names again, taken once, first b']
        assert summary.lines() == (again if 'b,y' in text else [])
    for text, message in (
        ('Name,Size\na,1\n', 'has no column ImageID'),
        ('ImageID\tSize\na\t1\n', r"columns are separated by '\\t'; expected commas"),
        ('ImageID;Size\na;1\n', "columns are separated by ';'; expected commas"),
    ):
        (tmp_path / 'images.csv').write_text(text)
        with pytest.raises(AnnotationError, match=rf'images\.csv:1: {message}'):
            read_image_list(tmp_path / 'images.csv')


HIERARCHY = ClassHierarchy(TREE, LABEL_NAMES)
# Names that CSV readers take for numbers, nothing or true, and letters of all kinds.
NAMES = st.one_of(
    st.sampled_from(['NA', 'null', 'nan', 'None', '0', '007', '1e5', 'true', '-', '#', "'", 'ImageId']),
    st.text(st.characters(exclude_categories=('Cs', 'Cc', 'Zs', 'Zl', 'Zp'), exclude_characters=',"./\\'), min_size=1),
)
SIDE = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 0.5, 1e-7, 5e-7, 1 - 1e-9, 1.0000001, -0.3, 1.7, float('nan')]), st.floats(0, 1)
)
SCORE = st.one_of(st.sampled_from([0.0, 1.0, 0.5, 0.01, 1e-30, float('nan')]), st.floats(0, 1, width=32))


@st.composite
def cases(draw):
    """Image ids of the predictions, their rows, and image ids of the submission."""
    ids = draw(st.lists(NAMES, min_size=1, max_size=8, unique=True))
    labels = st.integers(0, len(LABEL_NAMES) - 1)
    row = st.builds(Row, st.sampled_from(ids), labels, SCORE, st.tuples(SIDE, SIDE, SIDE, SIDE))
    rows = draw(st.lists(row, max_size=30))
    others = draw(st.lists(NAMES.filter(lambda name: name not in ids), max_size=3, unique=True))
    wanted = draw(st.permutations([*ids, *others]))
    return ids, rows, wanted[: draw(st.integers(1, len(wanted)))]


def select_plainly(rows, image_ids, min_score, max_per_image, hierarchy):
    chosen = []
    for name in image_ids:
        own = []
        for row in rows:
            box = tuple(float(np.round(min(max(side, 0.0), 1.0), 6)) for side in row.box)
            score = np.float32(row.score)
            numbers = not any(np.isnan(row.box)) and not np.isnan(score)
            if row.image == name and numbers and score >= np.float32(min_score):
                if box[0] < box[2] and box[1] < box[3]:
                    ancestors = hierarchy.ancestors(row.label) if hierarchy else []
                    own += [Row(name, int(label), score, box) for label in (row.label, *ancestors)]
        own.sort(key=lambda row: -row.score)  # of equal scores the first stays first
        chosen += own[:max_per_image]
    return chosen


@settings(max_examples=120, deadline=None)
@given(
    cases(),
    st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([None, HIERARCHY]),
    st.sampled_from(['out.csv', 'out.csv.gz']),
    st.sampled_from([1, 4, 1 << 17]),
)
@example((['a'], [], ['a']), 0.0, None, HIERARCHY, 'out.csv', 1)
@example((['a'], [], ['b']), 0.0, None, None, 'out.csv', 1)
def test_a_submission_reads_back_as_the_plain_selection(case, least, most, hierarchy, name, at_once):
    ids, rows, wanted = case
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_files, 'DETECTIONS_AT_ONCE', at_once)
        store = make_store(Path(folder) / 'store', rows, ids)
        options = dict(min_score=least, max_per_image=most, hierarchy=hierarchy, ancestor_nms=None)
        rows = [row for image in ids for row in rows if row.image == image]
        expected = select_plainly(rows, wanted, least, most, hierarchy)
        if not expected:
            message = 'has none of the' if set(wanted).isdisjoint(ids) else 'no detection is left to write'
            with pytest.raises(AnnotationError, match=message):
                write_submission(Path(folder) / name, store, wanted, **options)
            return
        counts = write_submission(Path(folder) / name, store, wanted, **options)
        read = read_predictions(Path(folder) / name, CLASSES)
    assert read.image_ids() == wanted, 'every image of the list, in its order, with or without detections'
    assert [row._replace(score=np.float32(row.score)) for row in rows_of(read)] == expected
    assert (counts['images'], counts['detections']) == (len(wanted), len(expected))
    assert counts['images without predictions'] == len(set(wanted) - set(ids))
    assert counts['images of the predictions that are not in the list'] == len(set(ids) - set(wanted))
    assert counts['images without detections'] == len(set(wanted) - {row.image for row in expected})
    left_out = ('detections below the score', 'boxes without area', 'detections above the number per image')
    added = counts.get('added ancestors, less those that NMS removes', 0)
    given_rows = sum(row.image in wanted for row in rows) + added
    assert sum(n for key, n in counts.items() if key.startswith(left_out)) + len(expected) == given_rows


def test_the_format_is_that_of_the_challenge(tmp_path):
    rows = [Row('a', 0, 0.75, (0.1, 0.2, 1 / 3, 1.002)), Row('a', 3, 0.5, (-0.1, -0.0, 1.0, 1.0))]
    store = make_store(tmp_path / 'store', rows, ['a', 'b'])
    counts = write_submission(tmp_path / 'out.csv', store)
    assert counts["boxes partly outside the image, clipped (first: image 'a')"] == 2
    assert (tmp_path / 'out.csv').read_text() == (
        'ImageId,PredictionString\na,/m/apple 0.75 0.1 0.2 0.333333 1 /m/bench1 0.5 0 0 1 1\nb,\n'
    )


def test_ids_and_options_that_cannot_be_written_are_errors(tmp_path):
    store = make_store(tmp_path / 'store', [Row('a,b', 0, 0.5, (0, 0, 1, 1))], ['a,b'])
    with pytest.raises(AnnotationError, match="image id 'a,b': must not be empty or contain a space, comma or quote"):
        write_submission(tmp_path / 'out.csv', store)
    store = make_store(tmp_path / 'store', [], ['a'])
    with pytest.raises(AnnotationError, match="the list of images: 'a' and 'a' are the same image"):
        write_submission(tmp_path / 'out.csv', store, ['a', 'a'])
    with pytest.raises(AnnotationError, match='the list of images: holds no image'):
        write_submission(tmp_path / 'out.csv', store, [])
    with pytest.raises(ValueError, match='max_per_image must be at least 1, got 0'):
        write_submission(tmp_path / 'out.csv', store, max_per_image=0)
    assert [path.name for path in tmp_path.iterdir()] == ['store']
