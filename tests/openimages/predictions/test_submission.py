"""Submissions read back and compared with a plain restatement."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions import csv_files
from mmoid.openimages.predictions.csv_files import read_predictions, write_submission
from tests.official_files import LABEL_NAMES, TREE
from tests.openimages.predictions.prediction_cases import CLASSES, Row, make_store, rows_of

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
