"""Submissions of whatever predictions there may be: what is read back is what the plain restatement selects."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions import submission
from mmoid.openimages.predictions.csv_files import read_predictions
from mmoid.openimages.predictions.prediction_store import PredictionStore, write_predictions
from mmoid.openimages.predictions.submission import Selection, write_submission
from tests.official_files import LABEL_NAMES, TREE
from tests.openimages.predictions.prediction_cases import Row, make_store, rows_of

HIERARCHY = ClassHierarchy(TREE, LABEL_NAMES)
# What CSV readers like to take for numbers, nothing or true, and letters of all kinds.
NAMES = st.one_of(
    st.sampled_from(
        ['NA', 'null', 'nan', 'None', '0', '007', '1e5', 'true', '-', '#', "'", 'ImageId', '00a1b2c3d4e5f6']
    ),
    st.text(st.characters(exclude_categories=('Cs', 'Cc', 'Zs', 'Zl', 'Zp'), exclude_characters=',"'), min_size=1),
)
SIDE = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 0.5, 1e-7, 5e-7, 1 - 1e-9, 1.0000001, -0.3, 1.7, float('nan')]), st.floats(0, 1)
)
SCORE = st.one_of(st.sampled_from([0.0, 1.0, 0.5, 0.01, 1e-30, float('nan')]), st.floats(0, 1, width=32))


@st.composite
def cases(draw):
    ids = draw(st.lists(NAMES, min_size=1, max_size=8, unique=True))
    rows = draw(st.lists(
        st.builds(Row, st.sampled_from(ids), st.integers(0, len(LABEL_NAMES) - 1), SCORE,
                  st.tuples(SIDE, SIDE, SIDE, SIDE)),
        max_size=30,
    ))  # fmt: skip
    wanted = draw(st.permutations([*ids, *draw(st.lists(NAMES, max_size=3, unique=True).map(
        lambda names: [name for name in names if name not in ids]
    ))]))  # fmt: skip
    return ids, rows, wanted[: draw(st.integers(1, len(wanted)))]


def plain(rows, image_ids, selection):
    chosen = []
    for name in image_ids:
        own = []
        for row in rows:
            box = tuple(float(np.round(min(max(side, 0.0), 1.0), 6)) for side in row.box)
            score = np.float32(row.score)
            numbers = not any(np.isnan(row.box)) and not np.isnan(score)
            if row.image == name and numbers and score >= np.float32(selection.least_score):
                if box[0] < box[2] and box[1] < box[3]:
                    ancestors = selection.hierarchy.ancestors(row.label) if selection.hierarchy else []
                    own += [Row(name, int(label), score, box) for label in (row.label, *ancestors)]
        own.sort(key=lambda row: -row.score)  # of equal scores the first stays first
        chosen += own[: selection.most_per_image]
    return chosen


@settings(max_examples=120, deadline=None)
@given(
    cases(),
    st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    st.sampled_from([None, 1, 3]),
    st.booleans(),
    st.sampled_from(['out.csv', 'out.csv.gz']),
    st.integers(1, 3),
    st.sampled_from([1, 4, 1 << 17]),
)
@example((['a'], [], ['a']), 0.0, None, True, 'out.csv', 1, 1)
def test_every_row_reads_back_as_selected(case, least, most, expand, name, threads, at_once):
    ids, rows, wanted = case
    selection = Selection(least, most, HIERARCHY if expand else None)
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / 'store', rows, ids)
        before, submission.DETECTIONS_AT_ONCE = submission.DETECTIONS_AT_ONCE, at_once
        try:
            summary = write_submission(Path(folder) / name, store, wanted, selection, num_threads=threads)
        finally:
            submission.DETECTIONS_AT_ONCE = before
        read = read_predictions(Path(folder) / name, LABEL_NAMES)
    rows = [row for image in ids for row in rows if row.image == image]
    expected = plain(rows, wanted, selection)
    assert read.image_ids() == wanted
    assert [row._replace(score=np.float32(row.score)) for row in rows_of(read)] == expected
    assert summary.detections == len(expected)
    left_out = summary.below_the_score + summary.boxes_without_area + summary.above_the_count
    given_rows = sum(row.image in wanted for row in rows) + summary.added_ancestors
    assert left_out + summary.detections == given_rows
    assert summary.images_without_predictions == len(set(wanted) - set(ids))


def test_many_images_come_through_in_their_order(tmp_path):
    """Fifty thousand images, most without detections, in another order than that of the predictions."""
    rng = np.random.default_rng(0)
    ids = [f'{k:016x}' for k in range(50_000)]
    rows = [Row(ids[k], 0, 0.5, (0.1, 0.2, 0.3, 0.4)) for k in sorted(rng.choice(50_000, 300, replace=False).tolist())]
    store = make_many(tmp_path / 'store', ids, rows)
    wanted = [ids[k] for k in rng.permutation(50_000)]
    summary = write_submission(tmp_path / 'out.csv.gz', store, wanted)
    read = read_predictions(tmp_path / 'out.csv.gz', LABEL_NAMES)
    assert read.image_ids() == wanted
    found = {row.image for row in rows_of(read)}
    assert found == {row.image for row in rows} and summary.images_without_detections == 49_700


def make_many(folder, ids, rows):
    with_one = {row.image for row in rows}
    write_predictions(
        folder,
        image_ids=ids,
        detections_per_image=np.array([name in with_one for name in ids]),
        label=np.zeros(len(rows), dtype=int),
        score=np.array([row.score for row in rows]),
        box=np.array([row.box for row in rows]),
        label_names=LABEL_NAMES,
        class_names=LABEL_NAMES,
    )
    return PredictionStore(folder)
