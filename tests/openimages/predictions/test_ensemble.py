"""Ensembles against direct calls of ensemble-boxes; in processes, killed and resumed, the same bytes come out."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ensemble_boxes
import numpy as np
import psutil
import pytest

from mmoid.openimages.boxes import box_iou
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions.ancestors import add_ancestors
from mmoid.openimages.predictions.csv_files import open_predictions
from mmoid.openimages.predictions.ensemble import match_sets, read_class_weights, run_ensemble
from mmoid.openimages.predictions.fusion import METHODS, Fusion
from mmoid.openimages.predictions.prediction_store import PredictionStore
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

HIERARCHY = ClassHierarchy(TREE, LABEL_NAMES)
CALLS = {
    'nms': ensemble_boxes.nms,
    'nmw': ensemble_boxes.non_maximum_weighted,
    'wbf': ensemble_boxes.weighted_boxes_fusion,
}


def some_stores(folder, seed, images=6, same=False):
    """Three models with other orders of images and classes, the last without one class, each without one image."""
    rng = np.random.default_rng(seed)
    stores = []
    for model in range(3):
        ids = image_names(images)
        names = list(LABEL_NAMES)
        rows = random_rows(rng, images)
        if not same:
            ids = [ids[k] for k in rng.permutation(images)][: images - 1]
            names = [names[k] for k in rng.permutation(5)][: 5 - (model == 2)]
            rows = [row for row in rows if row.image in ids and row.label < len(names)]
        stores.append(make_store(folder / f'model{model}', rows, ids, names))
    return stores


def by_class(stores, fusion, weights=None, class_weights=None, ancestors=None):
    """The ensemble by one direct call of ensemble-boxes for each image and class, as sorted rows."""
    expected = []
    for image in sorted({name for store in stores for name in store.image_ids()}):
        found = []
        for label, name in enumerate(LABEL_NAMES):
            weight = (class_weights or {}).get(name, weights or [1, 1, 1])
            parts, voters = [], []
            for m, store in enumerate(stores):
                rows = [
                    row
                    for row in expand(rows_of(store), ancestors, fusion.iou_threshold)
                    if (row.image, row.label) == (image, label)
                ]
                own = [LABEL_NAMES.index(name) for name in store.label_names]
                knows = label in own or (ancestors and ancestors.ancestor_matrix[own, label].any())
                if weight[m] > 0 and knows and image in store.image_ids():
                    parts.append([row for row in rows if row.score >= np.float32(fusion.skip_score)])
                    voters.append(weight[m])
            if any(parts):
                boxes = [np.clip(np.array([row.box for row in part]).reshape(-1, 4), 0, 1) for part in parts]
                scores = [np.array([row.score for row in part]) for part in parts]
                labels = [np.full(len(part), label) for part in parts]
                options = dict(iou_thr=fusion.iou_threshold)
                if fusion.method == 'wbf':
                    options |= dict(conf_type=fusion.confidence, allows_overflow=fusion.allows_overflow)
                if weights or class_weights:
                    options['weights'] = voters
                for box, score, _ in zip(*CALLS[fusion.method](boxes, scores, labels, **options)):
                    score = score if fusion.allows_overflow else min(score, 1)
                    found.append(Row(image, label, float(np.float32(score)), tuple(np.asarray(box, dtype=float))))
        expected += sorted(found, key=lambda row: -row.score)[: fusion.max_per_image]
    return sorted(expected)


def expand(rows, hierarchy, nms_iou):
    """Adds ancestors to the detections of a model, with NMS."""
    if hierarchy is None:
        return rows
    image, label, score, box = (np.array(column) for column in zip(*rows))
    number = np.unique(image, return_inverse=True)[1]
    source, labels = add_ancestors(hierarchy, number, label, score, np.clip(box, 0, 1), nms_iou)
    return [rows[k]._replace(label=int(label)) for k, label in zip(source, labels)]


def assert_best_first(store):
    for start, stop in zip([0, *store.detection_stop], store.detection_stop):
        assert (np.diff(store.score[start:stop]) <= 0).all()


WEIGHTS = [None, [2, 1, 0.5]]
CLASS_WEIGHTS = [None, {'/m/apple': [0, 1, 3], '/m/bench1': [1, 1, 0]}]


@pytest.mark.parametrize('method', CALLS)
@pytest.mark.parametrize('seed', range(6))
def test_each_class_of_each_image_is_fused_as_by_a_direct_call(tmp_path, method, seed):
    stores = some_stores(tmp_path, seed)
    fusion = Fusion(
        method=method,
        iou_threshold=[0.4, 0.55, 0.7][seed % 3],
        skip_score=[0, 0.3][seed % 2],
        confidence=['avg', 'max', 'box_and_model_avg', 'absent_model_aware_avg', 'avg', 'avg'][seed],
        allows_overflow=seed == 4,
        max_per_image=7 if seed == 5 else None,
    )
    weights, class_weights = WEIGHTS[seed % 2], CLASS_WEIGHTS[seed // 2 % 2]
    sets = match_sets(stores, weights=weights, class_weights=class_weights, missing='keep')
    counts = run_ensemble(sets, fusion, tmp_path / 'out', num_workers=1, images_per_shard=4)
    out = PredictionStore(tmp_path / 'out')
    expected = by_class(stores, fusion, weights, class_weights)
    assert sorted(rows_of(out)) == expected and counts['detections fused'] == len(expected) > 10
    assert_best_first(out)
    assert out.label_names == sets.votes.classes.label_names and sorted(out.label_names) == sorted(LABEL_NAMES)
    assert out.image_ids()[:5] == stores[0].image_ids()
    assert not list(tmp_path.glob('out.*'))


@pytest.mark.parametrize('seed', range(3))
def test_ancestors_added_before_take_part_in_the_fusion(tmp_path, seed):
    stores = some_stores(tmp_path, seed)
    sets = match_sets(stores, missing='keep', hierarchy=TREE, expand='before')
    run_ensemble(sets, Fusion(), tmp_path / 'out', num_workers=1)
    assert sorted(rows_of(PredictionStore(tmp_path / 'out'))) == by_class(stores, Fusion(), ancestors=HIERARCHY)


@pytest.mark.parametrize('method', METHODS)
def test_ancestors_added_after_never_score_below_their_descendants(tmp_path, method):
    stores = some_stores(tmp_path, 3, images=20)
    fusion = Fusion(method=method)
    for expand_when, name in ((None, 'plain'), ('after', 'consistent')):
        sets = match_sets(stores, missing='keep', hierarchy=TREE, expand=expand_when)
        run_ensemble(sets, fusion, tmp_path / name, num_workers=1)
    plain, found = (rows_of(PredictionStore(tmp_path / name)) for name in ('plain', 'consistent'))
    assert_best_first(PredictionStore(tmp_path / 'consistent'))
    leaves = HIERARCHY.is_leaf
    assert sorted(row for row in found if leaves[row.label]) == sorted(row for row in plain if leaves[row.label])
    for row in found:
        for ancestor in HIERARCHY.ancestors(row.label):
            same = [other for other in found if (other.image, other.label) == (row.image, ancestor)]
            better = [other.box for other in same if other.score >= row.score]
            assert box_iou(np.array(row.box), np.array(better)).max() > fusion.iou_threshold
    copies = {(row.image, row.score, row.box) for row in plain}
    assert {(row.image, row.score, row.box) for row in found} <= copies, 'only copies are added'
    assert len({row[:2] for row in found}) > len({row[:2] for row in plain}), 'some were added'


def test_a_model_without_an_image_or_a_class_has_no_vote_there(tmp_path):
    box = (0.1, 0.1, 0.5, 0.5)
    row = Row('a', 0, 0.75, box)
    knows = make_store(tmp_path / 'knows', [row], ['a', 'b'], ['/m/apple', '/m/fruit'])
    other = make_store(tmp_path / 'other', [row._replace(image='b')], ['b'], ['/m/fruit', '/m/apple'])
    ignorant = make_store(tmp_path / 'ignorant', [row], ['a'], ['/m/fruit'])
    cases = [((knows, other), 0.75), ((knows, ignorant), 0.75), ((knows, make_store(tmp_path / 'x', [], ['a'])), 0.375)]
    for stores, score in cases:
        run_ensemble(match_sets(stores, missing='keep'), Fusion(), tmp_path / 'out', num_workers=1, overwrite=True)
        scores = {row.label: row.score for row in rows_of(PredictionStore(tmp_path / 'out')) if row.image == 'a'}
        assert scores[0] == score
    sets = match_sets((knows, other), missing='drop')
    assert sets.image_ids == ('b',)
    with pytest.raises(AnnotationError, match=r"other: does not have image 'a', .*\(1 of 2 images .*--missing drop"):
        match_sets((knows, other))


def test_bad_boxes_are_clipped_or_left_out_without_a_warning(tmp_path, capfd, recwarn):
    boxes = [(-0.2, 0, 0.5, 1.5), (0.6, 0, 0.6, 1), (0.9, 0, 0.6, 1), (0.5, 0, 0.6, 1)]
    rows = [Row('a', 0, score, box) for score, box in zip((0.9, 0.8, 0.7, 0.0), boxes)]
    store = make_store(tmp_path / 'store', rows, ['a', 'b'])
    for method in METHODS:
        run_ensemble(match_sets([store]), Fusion(method=method), tmp_path / method, num_workers=1)
        (row,) = rows_of(PredictionStore(tmp_path / method))
        assert (row.box, row.score) == ((0, 0, 0.5, 1), np.float32(0.9))
    assert capfd.readouterr() == ('', '') and not recwarn.list


def test_bad_arguments_are_errors(tmp_path):
    stores = some_stores(tmp_path, 0, same=True)
    for options, message in (
        (dict(weights=[1, 2]), r'weights: expects 3 values above 0, one for each set, got \[1.0, 2.0\]'),
        (dict(weights=[1, 2, 0]), 'weights: expects 3 values above 0'),
        (dict(class_weights={'/m/car': [1, 1, 1]}), "class_weights: '/m/car' is not a class of the sets"),
        (dict(class_weights={'/m/apple': [1, 1]}), r"class_weights\['/m/apple'\]: expects 3 values of at least 0"),
        (dict(class_weights={'/m/apple': [0, 0, 0]}), r'not all 0, got \[0.0, 0.0, 0.0\]'),
        (dict(expand='before'), 'expand: needs the hierarchy'),
    ):
        with pytest.raises(ValueError, match=message):
            match_sets(stores, **options)
    less = make_store(tmp_path / 'less', [], image_names(), ['/m/fruit'])
    with pytest.raises(ValueError, match=r"'/m/apple'\]: is above 0 only for sets that do not have this class"):
        match_sets([stores[0], less], class_weights={'/m/apple': [0, 1]})


def test_class_weights_are_read_from_csv_and_json(tmp_path):
    (tmp_path / 'w.csv').write_text('LabelName,a,b\n/m/apple,1,0.5\n\n/m/fruit,0,2\n')
    (tmp_path / 'w.json').write_text(json.dumps({'/m/apple': [1, 0.5], '/m/fruit': [0, 2]}))
    for name in ('w.csv', 'w.json'):
        assert read_class_weights(tmp_path / name) == {'/m/apple': [1, 0.5], '/m/fruit': [0, 2]}
    for name, text, message in (
        ('w.csv', 'LabelName,a,b\n/m/apple,1,x\n', r"csv: cannot be read .*could not convert string to float: 'x'"),
        ('w.csv', 'LabelName,a,b\n/m/apple,1,1\n/m/apple,1,1\n', r'csv: a class occurs twice'),
        ('w.json', '{"/m/apple": 1}', r'json: cannot be read as class weights'),
        ('w.json', '[1]', r'json: cannot be read as class weights'),
        ('w.json', '{', r'json: cannot be read as class weights'),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(AnnotationError, match=message):
            read_class_weights(tmp_path / name)


IMAGES = 300
DRIVER = """
import sys
from mmoid.openimages.predictions.ensemble import match_sets, run_ensemble
from mmoid.openimages.predictions.fusion import Fusion
from mmoid.openimages.predictions.prediction_store import PredictionStore

if __name__ == '__main__':
    *paths, out = sys.argv[1:]
    sets = match_sets([PredictionStore(path) for path in paths])
    run_ensemble(sets, Fusion(), out, num_workers=2, images_per_shard=2)
"""


@pytest.fixture(scope='module')
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sets')
    rng = np.random.default_rng(0)
    return [make_store(folder / f'{m}', random_rows(rng, IMAGES, 60), image_names(IMAGES)) for m in range(2)]


@pytest.fixture(scope='module')
def whole(stores, tmp_path_factory):
    """What an uninterrupted run in one process writes."""
    out = tmp_path_factory.mktemp('whole') / 'out'
    run_ensemble(match_sets(stores), Fusion(), out, num_workers=1, images_per_shard=2)
    return contents(out)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_number_of_workers_and_the_shard_size_do_not_change_the_bytes(stores, whole, tmp_path):
    calls = []
    options = dict(num_workers=2, images_per_shard=40, progress=lambda *call: calls.append(call))
    run_ensemble(match_sets(stores), Fusion(), tmp_path / 'out', **options)
    assert contents(tmp_path / 'out') == whole
    assert (
        calls[0] == ('fusing images', 0, IMAGES) and calls[-1] == ('fusing images', IMAGES, IMAGES) and len(calls) == 9
    )
    assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_a_killed_run_resumes(stores, whole, tmp_path):
    (tmp_path / 'driver.py').write_text(DRIVER)
    out, parts = tmp_path / 'out', tmp_path / 'out.parts'
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / 'driver.py'), *(str(store.path) for store in stores), str(out)],
        env={**os.environ, 'PYTHONPATH': str(Path(__file__).parents[3])},
        start_new_session=True,
    )
    wait_for(lambda: len(list(parts.glob('images-*'))) >= 5)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs(workers, timeout=20)[1] == [], 'workers end with their parent'
    done = len(list(parts.glob('images-*')))
    assert 5 <= done < IMAGES / 2 and not out.exists()

    sets = match_sets(stores)
    with pytest.raises(
        AnnotationError, match=r'out\.parts: has shards of an ensemble with a different fusion; .*--restart'
    ):
        run_ensemble(sets, Fusion(iou_threshold=0.6), out, images_per_shard=2)
    with pytest.raises(AnnotationError, match=r'with a different sets; finish'):
        run_ensemble(match_sets([stores[0], stores[0]]), Fusion(), out, images_per_shard=2)
    calls = []
    counts = run_ensemble(
        sets, Fusion(), out, num_workers=1, images_per_shard=2, progress=lambda *call: calls.append(call)
    )
    assert counts['images done by an earlier run'] == calls[0][1] == 2 * done
    assert contents(out) == whole
    assert not parts.exists()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_killed_worker_is_reported_and_finished_shards_are_kept(stores, whole, tmp_path):
    def kill_one(what, done, total):
        if done == 20:
            workers = [child for child in psutil.Process().children() if 'spawn_main' in ' '.join(child.cmdline())]
            workers[0].kill()

    sets = match_sets(stores)
    with pytest.raises(ChildProcessError, match=r'out\.parts: a worker was killed.* the same command resumes'):
        run_ensemble(sets, Fusion(), tmp_path / 'out', num_workers=2, images_per_shard=2, progress=kill_one)
    assert not (tmp_path / 'out').exists()
    counts = run_ensemble(sets, Fusion(), tmp_path / 'out', num_workers=1, images_per_shard=2)
    assert counts['images done by an earlier run'] >= 20 and contents(tmp_path / 'out') == whole


def test_nothing_to_fuse_is_an_error(tmp_path):
    row = Row('a', 0, 0.5, (0, 0, 1, 1))
    one, empty = make_store(tmp_path / 'one', [row], ['a']), make_store(tmp_path / 'empty', [], ['a'])
    other = make_store(tmp_path / 'other', [row._replace(image='b')], ['b'])
    with pytest.raises(AnnotationError, match="other: has no image in common with the other sets, first 'b'"):
        match_sets([other, one], missing='drop')
    for sets, fusion, message in (
        ([empty, empty], Fusion(), 'no detection of any set takes part'),
        ([one], Fusion(skip_score=0.6), r'takes part \(one: left out: score 0 or below --skip-score: 1\)'),
        ([make_store(tmp_path / 'none', [], [])], Fusion(), 'no image is in all sets'),
    ):
        with pytest.raises(AnnotationError, match=message):
            run_ensemble(match_sets(sets), fusion, tmp_path / 'out')
    assert not list(tmp_path.glob('out*'))


def test_rows_and_a_submission_of_the_same_predictions_give_the_same_ensemble(tmp_path):
    """An image without rows is one on which the model found nothing, and ids may have an extension."""
    rows = [Row('a', 1, 0.9, (0.5, 0.5, 0.9, 0.9))]
    first = make_store(tmp_path / 'first', [Row(name, 0, 0.9, (0.1, 0.1, 0.4, 0.4)) for name in 'ab'], ['a', 'b'])
    (tmp_path / 'rows.csv').write_text(rows_csv([row._replace(image=f'{row.image}.jpg') for row in rows]))
    (tmp_path / 'submission.csv').write_text(submission_csv(rows, ['a', 'b']))
    results = []
    for name in ('rows.csv', 'submission.csv'):
        sets = match_sets([first, open_predictions(tmp_path / name, CLASSES)])
        counts = run_ensemble(sets, Fusion(), tmp_path / 'out', num_workers=1, overwrite=True)
        results.append(rows_of(PredictionStore(tmp_path / 'out')))
        assert counts.get('rows.csv: images without a row, taken as without detections') == (
            1 if name == 'rows.csv' else None
        )
    assert results[0] == results[1]
    assert [row.score for row in results[0] if row[:2] == ('b', 0)] == [pytest.approx(0.45)]


def test_ancestors_that_no_set_has_are_added(tmp_path):
    store = make_store(tmp_path / 'store', [Row('a', 0, 0.75, (0, 0, 1, 1))], ['a'], ['/m/apple'])
    for when in ('before', 'after'):
        sets = match_sets([store], hierarchy=TREE, expand=when)
        run_ensemble(sets, Fusion(), tmp_path / 'out', num_workers=1, overwrite=True)
        out = PredictionStore(tmp_path / 'out')
        found = {(out.label_names[label], score) for label, score in zip(out.label, out.score)}
        assert found == {('/m/apple', 0.75), ('/m/fruit', 0.75)}


def test_scores_stay_in_0_to_1_unless_asked_otherwise(tmp_path):
    box = (0.1, 0.1, 0.5, 0.5)
    one = make_store(tmp_path / 'one', [Row('a', 0, 1.0, box)] * 2, ['a'])
    sets = match_sets([one, make_store(tmp_path / 'two', [], ['a'])], weights=[5, 1])
    for overflows in (False, True):
        run_ensemble(sets, Fusion(allows_overflow=overflows), tmp_path / 'out', num_workers=1, overwrite=True)
        assert (PredictionStore(tmp_path / 'out').score.max() > 1) == overflows
