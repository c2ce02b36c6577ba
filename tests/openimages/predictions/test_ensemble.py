"""Ensembles against direct calls of ensemble-boxes; in processes, killed and resumed, the same bytes come out."""

import json
import sys

import ensemble_boxes
import numpy as np
import psutil
import pytest

from mmoid.openimages.boxes import box_iou
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions import ensemble
from mmoid.openimages.predictions.ancestors import add_ancestors
from mmoid.openimages.predictions.csv_files import open_predictions
from mmoid.openimages.predictions.ensemble import (
    METHODS,
    SOFT_NMS_DECAYS,
    Fusion,
    fuse,
    match_sets,
    read_class_weights,
    run_ensemble,
)
from mmoid.openimages.predictions.prediction_store import PredictionStore
from tests.official_files import LABEL_NAMES, TREE
from tests.openimages.predictions.prediction_cases import (
    CLASSES,
    Row,
    contents,
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


def some_stores(folder, seed):
    """Three models with other orders of images and classes, the last without one class, each without one image."""
    rng = np.random.default_rng(seed)
    stores = []
    for model in range(3):
        rows = random_rows(rng)
        ids = rng.permutation(image_names())[:5].tolist()
        names = rng.permutation(LABEL_NAMES)[: 5 - (model == 2)].tolist()
        rows = [row for row in rows if row.image in ids and row.label < len(names)]
        stores.append(make_store(folder / f'model{model}', rows, ids, names))
    return stores


def by_class(stores, fusion, weights=None, class_weights=None, ancestors=None):
    """The ensemble by one direct call of ensemble-boxes for each image and class, as sorted rows."""
    sets = []
    for store in stores:
        known = {LABEL_NAMES.index(name) for name in store.label_names}
        if ancestors is not None:
            known |= {int(ancestor) for label in known for ancestor in ancestors.ancestors(label)}
        sets.append((store.image_ids(), known, expand(rows_of(store), ancestors, fusion.iou_threshold)))
    options = dict(iou_thr=fusion.iou_threshold)
    if fusion.method == 'wbf':
        options |= dict(conf_type=fusion.confidence, allows_overflow=fusion.allows_overflow)
    expected = []
    for image in sorted({name for ids, _, _ in sets for name in ids}):
        found = []
        for label, name in enumerate(LABEL_NAMES):
            weight = (class_weights or {}).get(name, weights or [1, 1, 1])
            voters = [m for m, (ids, known, _) in enumerate(sets) if weight[m] > 0 and label in known and image in ids]
            parts = [
                [row for row in sets[m][2] if row[:2] == (image, label) and row.score >= np.float32(fusion.skip_score)]
                for m in voters
            ]
            if any(parts):
                boxes = [np.clip(np.array([row.box for row in part]).reshape(-1, 4), 0, 1) for part in parts]
                scores = [np.array([row.score for row in part]) for part in parts]
                labels = [np.full(len(part), label) for part in parts]
                scale = [weight[m] for m in voters] if weights or class_weights else None
                for box, score, _ in zip(*CALLS[fusion.method](boxes, scores, labels, weights=scale, **options)):
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


def fused(out, sets, fusion=None):
    """The ensemble, made in this process."""
    run_ensemble(sets, fusion or Fusion(), out, num_workers=1, overwrite=True)
    return PredictionStore(out)


def assert_best_first(store):
    for start, stop in zip([0, *store.detection_stop], store.detection_stop):
        assert (np.diff(store.score[start:stop]) <= 0).all()


@pytest.mark.parametrize('method', CALLS)
@pytest.mark.parametrize('seed', range(6))
def test_each_class_of_each_image_is_fused_as_by_a_direct_call(tmp_path, monkeypatch, method, seed):
    monkeypatch.setattr(ensemble, 'IMAGES_PER_SHARD', 4)
    stores = some_stores(tmp_path, seed)
    fusion = Fusion(
        method=method,
        iou_threshold=[0.4, 0.55, 0.7][seed % 3],
        skip_score=[0, 0.3][seed % 2],
        confidence=['avg', 'max', 'box_and_model_avg', 'absent_model_aware_avg', 'avg', 'avg'][seed],
        allows_overflow=seed == 4,
        max_per_image=7 if seed == 5 else None,
    )
    weights = [None, [2, 1, 0.5]][seed % 2]
    class_weights = [None, {'/m/apple': [0, 1, 3], '/m/bench1': [1, 1, 0]}][seed // 2 % 2]
    sets = match_sets(stores, weights=weights, class_weights=class_weights, missing='keep')
    counts = run_ensemble(sets, fusion, tmp_path / 'out', num_workers=1)
    out = PredictionStore(tmp_path / 'out')
    expected = by_class(stores, fusion, weights, class_weights)
    assert sorted(rows_of(out)) == expected and counts['detections fused'] == len(expected) > 10
    assert_best_first(out)
    assert out.label_names == sets.classes.label_names and sorted(out.label_names) == sorted(LABEL_NAMES)
    assert out.image_ids()[:5] == stores[0].image_ids()
    assert not list(tmp_path.glob('out.*'))


@pytest.mark.parametrize('seed', range(3))
def test_ancestors_are_added_to_each_model_before_the_fusion_or_to_the_result(tmp_path, seed):
    stores = some_stores(tmp_path, seed)
    expected = {
        'before': by_class(stores, Fusion(), ancestors=HIERARCHY),
        'after': sorted(expand(by_class(stores, Fusion()), HIERARCHY, Fusion().iou_threshold)),
    }
    for when, rows in expected.items():
        sets = match_sets(stores, missing='keep', hierarchy=TREE, expand=when)
        out = fused(tmp_path / when, sets)
        assert sorted(rows_of(out)) == rows
        assert_best_first(out)


def test_a_model_without_an_image_or_a_class_has_no_vote_there(tmp_path):
    row = Row('a', 0, 0.75, (0.1, 0.1, 0.5, 0.5))
    knows = make_store(tmp_path / 'knows', [row], ['a', 'b'], ['/m/apple', '/m/fruit'])
    other = make_store(tmp_path / 'other', [row._replace(image='b')], ['b'], ['/m/fruit', '/m/apple'])
    ignorant = make_store(tmp_path / 'ignorant', [row], ['a'], ['/m/fruit'])
    silent = make_store(tmp_path / 'silent', [row._replace(label=1)], ['a'], ['/m/apple', '/m/fruit'])
    cases = [((knows, other), 0.75), ((knows, ignorant), 0.75), ((knows, silent), 0.375)]
    for stores, score in cases:
        out = fused(tmp_path / 'out', match_sets(stores, missing='keep'))
        assert {row.label: row.score for row in rows_of(out) if row.image == 'a'}[0] == score
    sets = match_sets((knows, other), missing='drop')
    assert sets.image_ids == ('b',)
    with pytest.raises(AnnotationError, match=r"other: does not have image 'a', .*\(1 of 2 images .*--missing drop"):
        match_sets((knows, other))
    with pytest.raises(AnnotationError, match="twice: 'a.jpg' and 'a' are the same image"):
        match_sets([make_store(tmp_path / 'twice', [], ['a.jpg', 'a'])])
    weights = {'/m/apple': [0, 1]}
    out = fused(tmp_path / 'out', match_sets((knows, other), missing='keep', class_weights=weights))
    assert [row.image for row in rows_of(out)] == ['b'], 'nobody votes on image a'


def test_bad_boxes_are_clipped_or_left_out_and_counted_without_a_warning(tmp_path, capfd, recwarn):
    boxes = [(-0.2, 0, 0.5, 1.5), (0.6, 0, 0.6, 1), (0.9, 0, 0.6, 1), (0.5, 0, 0.6, 1), (1.2, 0, 1.5, 1)]
    rows = [Row('a', 0, score, box) for score, box in zip((0.9, 0.8, 0.7, 0.0, 0.5), boxes)]
    store = make_store(tmp_path / 'store', rows, ['a', 'b'])
    for method in METHODS:
        counts = run_ensemble(match_sets([store]), Fusion(method=method), tmp_path / method, num_workers=1)
        (row,) = rows_of(PredictionStore(tmp_path / method))
        assert (row.box, row.score) == ((0, 0, 0.5, 1), np.float32(0.9))
        assert counts[f'{store.path}: left out: score 0 or below --skip-score, or outside the image'] == 4
        assert counts[f'{store.path}: boxes partly outside the image, clipped'] == 1
    assert capfd.readouterr() == ('', '') and not recwarn.list


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(weights=[1]), r'weights: expects 2 values above 0, one for each set, got \[1.0\]'),
        (dict(weights=[2, 0]), 'weights: expects 2 values above 0'),
        (dict(class_weights={'/m/car': [1, 1]}), "class_weights: '/m/car' is not a class of the sets"),
        (dict(class_weights={'/m/fruit': [1]}), r"class_weights\['/m/fruit'\]: expects 2 values of at least 0"),
        (dict(class_weights={'/m/fruit': [0, 0]}), r'not all 0, got \[0.0, 0.0\]'),
        (dict(class_weights={'/m/apple': [0, 1]}), r"'\]: is above 0 only for sets that do not have this class"),
        (dict(expand='before'), 'expand: needs the hierarchy'),
    ],
)
def test_bad_arguments_are_errors(tmp_path, options, message):
    sets = [make_store(tmp_path / 'all', [], ['a']), make_store(tmp_path / 'fruit', [], ['a'], ['/m/fruit'])]
    with pytest.raises(ValueError, match=message):
        match_sets(sets, **options)


def test_class_weights_are_read_from_csv_and_json(tmp_path):
    (tmp_path / 'w.csv').write_text('LabelName,a,b\n/m/apple,1,0.5\n\n/m/fruit,0,2\n')
    (tmp_path / 'w.json').write_text(json.dumps({'/m/apple': [1, 0.5], '/m/fruit': [0, 2]}))
    for name in ('w.csv', 'w.json'):
        assert read_class_weights(tmp_path / name) == {'/m/apple': [1, 0.5], '/m/fruit': [0, 2]}
    for name, text, message in (
        ('w.csv', 'LabelName,a,b\n/m/apple,1,x\n', r"csv: cannot be read .*could not convert string to float: 'x'"),
        ('w.csv', 'LabelName,a,b\n/m/apple,1,1\n/m/apple,1,1\n', r'csv: a class occurs twice'),
        ('w.json', '{"/m/apple": 1}', r'json: cannot be read as class weights'),
        ('w.json', '[1]', r'json: cannot be read as class weights \(expected an object'),
        ('w.json', '{', r'json: cannot be read as class weights'),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(AnnotationError, match=message):
            read_class_weights(tmp_path / name)


def test_workers_do_not_change_the_bytes_and_a_run_with_a_killed_one_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(ensemble, 'IMAGES_PER_SHARD', 10)
    rng, ids = np.random.default_rng(0), image_names(300)
    stores = [make_store(tmp_path / f'sets/{m}', random_rows(rng, 300, 60), ids) for m in range(2)]
    sets, out = match_sets(stores), tmp_path / 'out'
    whole = contents(fused(tmp_path / 'sets/whole', sets).path)

    def kill_one(what, done, total):
        if done == 20:
            workers = [child for child in psutil.Process().children() if 'spawn_main' in ' '.join(child.cmdline())]
            workers[0].kill()

    with pytest.raises(ChildProcessError, match=r'out\.parts: a worker was killed.* the same command resumes'):
        run_ensemble(sets, Fusion(), out, num_workers=2, progress=kill_one)
    assert not out.exists()
    for other, fusion, what in (
        (sets, Fusion(iou_threshold=0.6), 'fusion'),
        (match_sets(stores[:1] * 2), Fusion(), 'sets'),
    ):
        with pytest.raises(AnnotationError, match=rf'out\.parts: has shards of .* different {what}; .*--restart'):
            run_ensemble(other, fusion, out)
    calls = []
    counts = run_ensemble(sets, Fusion(), out, num_workers=2, progress=lambda *call: calls.append(call))
    done = counts['images done by an earlier run']
    assert done >= 20 and calls == [('fusing images', images, 300) for images in range(done, 301, 10)]
    assert contents(out) == whole and sorted(path.name for path in tmp_path.iterdir()) == ['out', 'sets']


def test_nothing_to_fuse_is_an_error(tmp_path):
    row = Row('a', 0, 0.5, (0, 0, 1, 1))
    one, empty = make_store(tmp_path / 'one', [row], ['a']), make_store(tmp_path / 'empty', [], ['a'])
    other = make_store(tmp_path / 'other', [row._replace(image='b')], ['b'])
    with pytest.raises(AnnotationError, match="other: has no image in common with the other sets, first 'b'"):
        match_sets([other, one], missing='drop')
    for sets, fusion, message in (
        ([one, empty], Fusion(), 'empty: no detection takes part$'),
        (
            [one],
            Fusion(skip_score=0.6),
            r'one: no detection takes part \(1 left out: score 0 or below --skip-score, or',
        ),
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
    for name, without_row in (('rows.csv', 1), ('submission.csv', None)):
        sets = match_sets([first, open_predictions(tmp_path / name, CLASSES)])
        counts = run_ensemble(sets, Fusion(), tmp_path / name[:3], num_workers=1)
        results.append(rows_of(PredictionStore(tmp_path / name[:3])))
        assert counts.get(f'{tmp_path}/rows.csv: images without a row, taken as without detections') == without_row
    assert results[0] == results[1]
    assert [row.score for row in results[0] if row[:2] == ('b', 0)] == [pytest.approx(0.45)]


def test_a_set_with_display_names_in_place_of_mids_votes_for_the_same_classes(tmp_path):
    rows = [Row('a', 0, 0.75, (0.1, 0.1, 0.5, 0.5))]
    stores = [make_store(tmp_path / 'mids', rows, ['a']), make_store(tmp_path / 'names', rows, ['a'], ['Apple', 'Car'])]
    for sets in (stores, stores[::-1]):
        out = fused(tmp_path / 'out', match_sets(sets))
        assert set(out.label_names) == {*LABEL_NAMES, 'Car'}
        assert [(out.label_names[label], score) for label, score in zip(out.label, out.score)] == [('/m/apple', 0.75)]


@pytest.mark.parametrize('when', ['before', 'after'])
def test_ancestors_that_no_set_has_are_added(tmp_path, when):
    store = make_store(tmp_path / 'store', [Row('a', 0, 0.75, (0, 0, 1, 1))], ['a'], ['/m/apple'])
    out = fused(tmp_path / 'out', match_sets([store], hierarchy=TREE, expand=when))
    found = {(out.label_names[label], score) for label, score in zip(out.label, out.score)}
    assert found == {('/m/apple', 0.75), ('/m/fruit', 0.75)}


def test_scores_stay_in_0_to_1_unless_asked_otherwise(tmp_path):
    one = make_store(tmp_path / 'one', [Row('a', 0, 1.0, (0.1, 0.1, 0.5, 0.5))] * 2, ['a'])
    two = make_store(tmp_path / 'two', [Row('a', 0, 0.1, (0.6, 0.6, 0.9, 0.9))], ['a'])
    sets = match_sets([one, two], weights=[5, 1])
    for overflows in (False, True):
        assert (fused(tmp_path / 'out', sets, Fusion(allows_overflow=overflows)).score.max() > 1) == overflows


def plain_soft_nms(rows, fusion):
    """Soft-NMS (Bodla et al. 2017) on (score, box) of one class, sorted."""
    rows, kept = list(rows), []
    while rows:
        best = max(rows)
        rows.remove(best)
        kept.append(best)
        overlaps = [box_iou(np.array(best[1]), np.array(box)) for _, box in rows]
        if fusion.decay == 'gaussian':
            factors = [np.exp(-(overlap**2) / fusion.sigma) for overlap in overlaps]
        else:
            factors = [1 - overlap if overlap > fusion.iou_threshold else 1 for overlap in overlaps]
        rows = [(score * factor, box) for (score, box), factor in zip(rows, factors)]
    return sorted((score, box) for score, box in kept if score > fusion.least_score)


@pytest.mark.parametrize('decay', SOFT_NMS_DECAYS)
@pytest.mark.parametrize('weights', [None, [2, 1, 0.5]])
def test_soft_nms_decays_scores(decay, weights):
    fusion = Fusion(method='soft_nms', decay=decay, iou_threshold=0.5, least_score=0.02)
    for seed in range(10):
        rows = random_rows(np.random.default_rng(seed), 3, 20, 2)
        parts = [[row for row in rows if row.image == image] for image in image_names(3)]  # as if of three models
        boxes = [np.array([row.box for row in part]).reshape(-1, 4) for part in parts]
        scores = [np.array([row.score for row in part]) for part in parts]
        labels = [np.array([row.label for row in part], dtype=int) for part in parts]
        before = [part.copy() for part in (*boxes, *scores, *labels)]
        box, score, label = fuse(fusion, boxes, scores, labels, weights)
        assert all(map(np.array_equal, before, (*boxes, *scores, *labels))), 'the input stays'
        scale = [1, 1, 1] if weights is None else np.array(weights) / sum(weights)
        for k in range(2):
            own = [(row.score * scale[m], row.box) for m, part in enumerate(parts) for row in part if row.label == k]
            expected = plain_soft_nms(own, fusion)
            found = sorted(zip(score[label == k], map(tuple, box[label == k])))
            assert [place for _, place in found] == [place for _, place in expected]
            np.testing.assert_allclose([value for value, _ in found], [value for value, _ in expected], rtol=1e-9)


def test_settings_out_of_range_are_errors():
    for options, message in (
        (dict(method='mean'), "method must be one of nms, soft_nms, nmw, wbf, got 'mean'"),
        (dict(confidence='min'), 'confidence must be one of avg, max'),
        (dict(iou_threshold=1), 'iou_threshold must be between 0 and 1, got 1'),
        (dict(sigma=0), 'sigma must be above 0'),
        (dict(max_per_image=0), 'max_per_image must be at least 1, got 0'),
    ):
        with pytest.raises(ValueError, match=message):
            Fusion(**options)


def test_without_ensemble_boxes_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ensemble_boxes', None)
    with pytest.raises(ImportError, match=r"pip install 'mmoid\[ensemble\]'"):
        Fusion()
