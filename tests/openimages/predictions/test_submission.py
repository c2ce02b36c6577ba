"""Submissions: against a plain restatement, read back, and told when they are not as they were meant."""

import gzip

import numpy as np
import pyarrow as pa
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions import submission
from mmoid.openimages.predictions.csv_files import read_predictions
from mmoid.openimages.predictions.submission import Selection, read_image_list, write_submission
from tests.official_files import LABEL_NAMES, TREE
from tests.openimages.predictions.prediction_cases import Row, image_names, make_store, random_rows, rows_of

HIERARCHY = ClassHierarchy(TREE, LABEL_NAMES)


def plain(rows, image_ids, selection):
    """What the file should say, in plain Python."""
    chosen = []
    for name in image_ids:
        own = []
        for row in rows:
            box = tuple(round(min(max(value, 0), 1), 6) for value in row.box)
            if row.image != name or row.score < selection.least_score or box[0] >= box[2] or box[1] >= box[3]:
                continue
            ancestors = selection.hierarchy.ancestors(row.label) if selection.hierarchy else []
            own += [Row(name, int(label), row.score, box) for label in (row.label, *ancestors)]
        own.sort(key=lambda row: -row.score)
        chosen += own[: selection.most_per_image]
    return chosen


@pytest.mark.parametrize('seed', range(8))
def test_the_file_holds_what_the_plain_restatement_selects(tmp_path, seed):
    rng = np.random.default_rng(seed)
    rows = random_rows(rng)
    if seed % 2:
        rows = [rows[k] for k in rng.permutation(len(rows))]  # not best first
    selection = Selection(
        least_score=float(rng.choice([0, 0.3])),
        most_per_image=[None, 4, 1][seed % 3],
        hierarchy=HIERARCHY if seed % 4 < 2 else None,
    )
    store = make_store(tmp_path / 'store', rows, image_names())
    image_ids = [*np.random.default_rng(seed).permutation(image_names()).tolist()[:4], 'unseen']
    summary = write_submission(tmp_path / 'out.csv', store, image_ids, selection)
    read = read_predictions(tmp_path / 'out.csv', LABEL_NAMES)
    assert read.image_ids() == image_ids, 'every image of the list, in its order, whether it has detections or not'
    expected = plain(rows, image_ids, selection)
    assert [row._replace(score=np.float32(row.score)) for row in rows_of(read)] == expected
    assert summary.detections == len(expected) and summary.images == 5
    assert (summary.images_without_predictions, summary.other_images) == (1, 2)
    empty = {*image_ids} - {row.image for row in expected}
    assert summary.images_without_detections == len(empty)


def test_the_format_is_that_of_the_challenge(tmp_path):
    rows = [Row('a', 0, 0.75, (0.1, 0.2, 1 / 3, 1.002)), Row('a', 3, 0.5, (-0.1, -0.0, 1.0, 1.0))]
    store = make_store(tmp_path / 'store', rows, ['a', 'b'])
    write_submission(tmp_path / 'out.csv', store)
    assert (tmp_path / 'out.csv').read_text() == (
        'ImageId,PredictionString\na,/m/apple 0.75 0.1 0.2 0.333333 1 /m/bench1 0.5 0 0 1 1\nb,\n'
    )
    write_submission(tmp_path / 'out.csv.gz', store)
    assert gzip.decompress((tmp_path / 'out.csv.gz').read_bytes()) == (tmp_path / 'out.csv').read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out.csv', 'out.csv.gz', 'store']


def test_counts_say_what_was_left_out_and_why(tmp_path):
    box, flat = (0.1, 0.1, 0.5, 0.5), (0.1, 0.1, 0.1000001, 0.5)
    rows = [Row('a', 0, 0.9, box), Row('a', 2, 0.8, flat), Row('a', 1, 0.75, box), Row('a', 2, 0.1, box)]
    store = make_store(tmp_path / 'store', rows, ['a', 'b'])
    summary = write_submission(tmp_path / 'out.csv', store, None, Selection(0.5, 3, HIERARCHY))
    assert (summary.below_the_score, summary.boxes_without_area, summary.added_ancestors) == (1, 1, 2)
    assert (summary.above_the_count, summary.detections, summary.images_without_detections) == (1, 3, 1)
    labels = [LABEL_NAMES[row.label] for row in rows_of(read_predictions(tmp_path / 'out.csv', LABEL_NAMES))]
    assert labels == ['/m/apple', '/m/fruit', '/m/orange']
    assert summary.bytes == (tmp_path / 'out.csv').stat().st_size


def test_a_score_is_not_below_itself(tmp_path):
    store = make_store(tmp_path / 'store', [Row('a', 0, 0.01, (0, 0, 1, 1))], ['a'])  # 0.01 in float32 is less
    assert write_submission(tmp_path / 'out.csv', store, None, Selection(0.01)).detections == 1


@pytest.mark.parametrize('num_threads', [1, 3])
def test_pieces_and_threads_do_not_show_in_the_file(tmp_path, monkeypatch, num_threads):
    rows = random_rows(np.random.default_rng(5), images=30)
    store = make_store(tmp_path / 'store', rows, image_names(30))
    write_submission(tmp_path / 'whole.csv', store)
    monkeypatch.setattr(submission, 'DETECTIONS_AT_ONCE', 7)
    told = []
    write_submission(tmp_path / 'pieces.csv', store, progress=lambda *news: told.append(news), num_threads=num_threads)
    assert (tmp_path / 'pieces.csv').read_bytes() == (tmp_path / 'whole.csv').read_bytes()
    assert len(told) > 20 and told[-1] == ('reading back images', 30, 30)


def test_a_file_that_reads_back_otherwise_does_not_take_its_name(tmp_path, monkeypatch):
    store = make_store(tmp_path / 'store', random_rows(np.random.default_rng(0)), image_names())
    (tmp_path / 'out.csv').write_text('before')
    write = submission.format_rows

    def damaged(*columns):
        return pa.py_buffer(write(*columns).to_pybytes().replace(b'/m/apple 0.', b'/m/apple 0.0', 1))

    monkeypatch.setattr(submission, 'format_rows', damaged)
    with pytest.raises(AnnotationError, match='images 0 to 5 do not read back as they were written'):
        write_submission(tmp_path / 'out.csv', store)
    monkeypatch.setattr(submission, 'format_rows', lambda *columns: pa.py_buffer(b'image0,\n'))
    with pytest.raises(AnnotationError, match='do not read back'):
        write_submission(tmp_path / 'out.csv', store)
    assert (tmp_path / 'out.csv').read_text() == 'before'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out.csv', 'store']


def test_what_cannot_be_written_is_refused(tmp_path):
    store = make_store(tmp_path / 'store', [Row('a,b', 0, 0.5, (0, 0, 1, 1))], ['a,b'])
    with pytest.raises(AnnotationError, match="image id 'a,b': holds what separates values in a submission"):
        write_submission(tmp_path / 'out.csv', store)
    store = make_store(tmp_path / 'store', [], ['a'])
    with pytest.raises(AnnotationError, match='image_ids: names an image twice'):
        write_submission(tmp_path / 'out.csv', store, ['a', 'a'])
    with pytest.raises(AnnotationError, match='most_per_image: must be at least 1, got 0'):
        Selection(most_per_image=0)


def test_an_image_list_is_read_from_either_spelling_each_image_once(tmp_path):
    for column in ('ImageID', 'ImageId'):
        (tmp_path / 'images.csv').write_text(f'{column},PredictionString\nb,x\na,\nb,y\n')
        assert read_image_list(tmp_path / 'images.csv') == ['b', 'a']
    (tmp_path / 'images.csv').write_text('id\nb\n')
    with pytest.raises(AnnotationError, match=r'csv:1: has no column ImageID or ImageId; it has id'):
        read_image_list(tmp_path / 'images.csv')
