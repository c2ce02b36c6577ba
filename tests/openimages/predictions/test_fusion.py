"""Ensembles against direct calls of ensemble-boxes, class by class, and against what they promise besides."""

import json
import subprocess
import sys
from pathlib import Path

import ensemble_boxes
import numpy as np
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions.fusion import Fusion, fuse, match_sets, read_class_weights, run_ensemble
from mmoid.openimages.predictions.prediction_store import PredictionStore
from tests.official_files import LABEL_NAMES, TREE
from tests.openimages.predictions.prediction_cases import Row, image_names, make_store, random_rows, rows_of

HIERARCHY = ClassHierarchy(TREE, LABEL_NAMES)
CALLS = {
    'nms': ensemble_boxes.nms,
    'soft_nms': ensemble_boxes.soft_nms,
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
                rows = [row for row in expand(rows_of(store), ancestors) if (row.image, row.label) == (image, label)]
                knows = name in store.label_names or (ancestors and any(
                    label in ancestors.ancestors(LABEL_NAMES.index(own)) for own in store.label_names
                ))  # fmt: skip
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
                    found.append(Row(image, label, float(np.float32(score)), tuple(np.asarray(box, dtype=float))))
        expected += sorted(found, key=lambda row: -row.score)[: fusion.most_per_image]
    return sorted(expected)


def expand(rows, hierarchy):
    """Ancestors added; of equal boxes of a class the best."""
    if hierarchy is None:
        return rows
    best = {}
    for row in rows:
        for label in (row.label, *hierarchy.ancestors(row.label)):
            key = (row.image, int(label), row.box)
            best[key] = max(row.score, best.get(key, 0))
    return [Row(image, label, score, box) for (image, label, box), score in best.items()]


def assert_best_first(store):
    for start, stop in zip([0, *store.detection_stop], store.detection_stop):
        assert (np.diff(store.score[start:stop]) <= 0).all()


WEIGHTS = [None, [2, 1, 0.5]]
CLASS_WEIGHTS = [None, {'/m/apple': [0, 1, 3], '/m/bench1': [1, 1, 0]}]


@pytest.mark.parametrize('method', ['nms', 'nmw', 'wbf'])
@pytest.mark.parametrize('seed', range(6))
def test_every_class_of_every_image_is_fused_as_a_direct_call_fuses_it(tmp_path, method, seed):
    stores = some_stores(tmp_path, seed)
    fusion = Fusion(
        method=method,
        iou_threshold=[0.4, 0.55, 0.7][seed % 3],
        skip_score=[0, 0.3][seed % 2],
        confidence=['avg', 'max', 'box_and_model_avg', 'absent_model_aware_avg', 'avg', 'avg'][seed],
        allows_overflow=seed == 4,
        most_per_image=7 if seed == 5 else None,
    )
    weights, class_weights = WEIGHTS[seed % 2], CLASS_WEIGHTS[seed // 2 % 2]
    sets = match_sets(stores, weights=weights, class_weights=class_weights, missing='keep')
    summary = run_ensemble(sets, fusion, tmp_path / 'out', num_workers=1, images_per_shard=4)
    out = PredictionStore(tmp_path / 'out')
    expected = by_class(stores, fusion, weights, class_weights)
    assert sorted(rows_of(out)) == expected and summary.detections_out == len(expected) > 10
    assert_best_first(out)
    assert out.label_names == sets.label_names and sorted(out.label_names) == sorted(LABEL_NAMES)
    assert out.image_ids()[:5] == stores[0].image_ids()
    assert not list(tmp_path.glob('out.*'))


@pytest.mark.parametrize('method', ['nms', 'nmw', 'wbf'])
@pytest.mark.parametrize('weights', WEIGHTS)
def test_one_direct_call_for_an_image_gives_the_same(tmp_path, method, weights):
    stores = some_stores(tmp_path, 1, same=True)
    run_ensemble(match_sets(stores, weights=weights), Fusion(method=method), tmp_path / 'out', num_workers=1)
    expected = []
    for image in image_names():
        parts = [[row for row in rows_of(store) if row.image == image] for store in stores]
        columns = [[np.array([row[k] for row in part]) for part in parts] for k in (3, 2, 1)]
        columns[0] = [np.clip(box.reshape(-1, 4), 0, 1) for box in columns[0]]
        box, score, label = CALLS[method](*columns, iou_thr=0.55, weights=weights)
        expected += [Row(image, int(k), float(s), tuple(b)) for b, s, k in zip(box.tolist(), score.astype('f4'), label)]
    assert sorted(rows_of(PredictionStore(tmp_path / 'out'))) == sorted(expected)


def plain_soft_nms(rows, fusion):
    """Soft-NMS (Bodla et al. 2017) on (score, box) of one class."""
    rows, kept = list(rows), []
    while rows:
        best = max(rows)
        rows.remove(best)
        kept.append(best)
        overlaps = [iou(best[1], box) for _, box in rows]
        if fusion.decay == 'gaussian':
            factors = [np.exp(-(overlap**2) / fusion.sigma) for overlap in overlaps]
        else:
            factors = [1 - overlap if overlap > fusion.iou_threshold else 1 for overlap in overlaps]
        rows = [(score * factor, box) for (score, box), factor in zip(rows, factors)]
    return [(score, box) for score, box in kept if score > fusion.least_score]


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


@pytest.mark.parametrize('decay', ['linear', 'gaussian'])
@pytest.mark.parametrize('weights', WEIGHTS)
def test_soft_nms_keeps_the_boxes_of_ensemble_boxes_and_decays_their_scores(decay, weights):
    fusion = Fusion(method='soft_nms', decay=decay, iou_threshold=0.5, least_score=0.02)
    for seed in range(20):
        rows = [row for row in random_rows(np.random.default_rng(seed), 3, 20, 2)]
        parts = [[row for row in rows if row.image == image] for image in image_names(3)]  # as if of three models
        columns = [[np.array([row[k] for row in part]) for part in parts] for k in (3, 2, 1)]
        columns[0] = [np.clip(box.reshape(-1, 4), 0, 1) for box in columns[0]]
        columns[2] = [label.astype(int) for label in columns[2]]
        before = [part.copy() for column in columns for part in column]
        box, score, label = fuse(fusion, *columns, weights)
        assert all(map(np.array_equal, before, [part for column in columns for part in column]))
        method = {'linear': 1, 'gaussian': 2}[decay]
        same = ensemble_boxes.soft_nms(*columns, method=method, iou_thr=0.5, thresh=0.02, weights=weights)
        assert np.array_equal(box, same[0]) and np.array_equal(label, same[2])
        scale = [1, 1, 1] if weights is None else np.array(weights) / sum(weights)
        for k in range(2):
            mine = [(row.score * scale[m], tuple(np.clip(row.box, 0, 1))) for m, part in enumerate(parts)
                    for row in part if row.label == k]  # fmt: skip
            kept = [(s, tuple(b)) for s, b in zip(score[label == k], box[label == k])]
            for (ours, place), (plain, plain_place) in zip(sorted(kept), sorted(plain_soft_nms(mine, fusion))):
                assert ours == pytest.approx(plain, rel=1e-9) and place == plain_place
            assert len(kept) == len(plain_soft_nms(mine, fusion))


@pytest.mark.parametrize('seed', range(3))
def test_ancestors_added_before_take_part_and_of_equal_boxes_the_best_stays(tmp_path, seed):
    stores = some_stores(tmp_path, seed)
    rng = np.random.default_rng(seed)
    rows = rows_of(stores[0])
    rows += [row._replace(label=2, score=float(np.float32(rng.random()))) for row in rows if row.label < 2]
    stores[0] = make_store(tmp_path / 'model0', sorted(rows, key=lambda row: -row.score), stores[0].image_ids())
    sets = match_sets(stores, missing='keep', hierarchy=TREE, expand='before')
    run_ensemble(sets, Fusion(), tmp_path / 'out', num_workers=1)
    out = PredictionStore(tmp_path / 'out')
    assert sorted(rows_of(out)) == by_class(stores, Fusion(), ancestors=HIERARCHY)


@pytest.mark.parametrize('method', ['nms', 'soft_nms', 'nmw', 'wbf'])
def test_ancestors_kept_consistent_after_never_score_below_what_they_are_ancestors_of(tmp_path, method):
    stores = some_stores(tmp_path, 3, images=20)
    fusion = Fusion(method=method)
    for expand_when, name in ((None, 'plain'), ('after', 'consistent')):
        sets = match_sets(stores, missing='keep', hierarchy=TREE, expand=expand_when)
        run_ensemble(sets, fusion, tmp_path / name, num_workers=1)
    plain, found = (rows_of(PredictionStore(tmp_path / name)) for name in ('plain', 'consistent'))
    assert_best_first(PredictionStore(tmp_path / 'consistent'))
    leaves = HIERARCHY.is_leaf
    assert sorted(row for row in found if leaves[row.label]) == sorted(row for row in plain if leaves[row.label])
    missing = 0
    for row in found:
        for ancestor in HIERARCHY.ancestors(row.label):
            over = [iou(row.box, other.box) for other in found
                    if (other.image, other.label) == (row.image, ancestor) and other.score >= row.score]  # fmt: skip
            assert max(over, default=0) > fusion.iou_threshold
            missing += not any((other.image, other.label) == (row.image, ancestor) for other in plain)
    assert missing > 0, 'otherwise nothing was tested'
    of_plain = {(row.image, row.score, row.box) for row in plain}
    assert all((row.image, row.score, row.box) in of_plain for row in found), 'nothing but copies was added'


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


def test_boxes_that_ensemble_boxes_would_remark_on_are_clipped_or_left_out_quietly(tmp_path, capfd, recwarn):
    rows = [Row('a', 0, 0.9, (-0.2, 0, 0.5, 1.5)), Row('a', 0, 0.8, (0.6, 0, 0.6, 1)),
            Row('a', 0, 0.7, (0.9, 0, 0.6, 1)), Row('a', 0, 0.0, (0.5, 0, 0.6, 1))]  # fmt: skip
    store = make_store(tmp_path / 'store', rows, ['a', 'b'])
    for method in CALLS:
        run_ensemble(match_sets([store]), Fusion(method=method), tmp_path / method, num_workers=1)
        (row,) = rows_of(PredictionStore(tmp_path / method))
        assert (row.box, row.score) == ((0, 0, 0.5, 1), np.float32(0.9))
    assert capfd.readouterr() == ('', '') and not recwarn.list


def test_errors_say_what_is_wrong(tmp_path):
    stores = some_stores(tmp_path, 0, same=True)
    for options, message in (
        (dict(weights=[1, 2]), 'weights: expects one for each of the 3 sets, got 2'),
        (dict(weights=[1, 2, 0]), r'weights: must be above 0, got \[1.0, 2.0, 0.0\]; leave a set of weight 0 out'),
        (dict(class_weights={'/m/car': [1, 1, 1]}), "class_weights: class '/m/car' is in none of the sets"),
        (dict(class_weights={'/m/apple': [1, 1]}), r"class_weights\['/m/apple'\]: expects one for each of the 3 sets"),
        (dict(class_weights={'/m/apple': [0, 0, 0]}), 'must be at least 0, one above it'),
        (dict(expand='before'), 'expand: needs the hierarchy'),
    ):
        with pytest.raises(AnnotationError, match=message):
            match_sets(stores, **options)
    make_store(tmp_path / 'less', [], image_names(), ['/m/fruit'])
    with pytest.raises(AnnotationError, match=r"'/m/apple'\]: is above 0 only for sets that do not have this class"):
        match_sets([stores[0], PredictionStore(tmp_path / 'less')], class_weights={'/m/apple': [0, 1]})
    for options, message in (
        (dict(method='mean'), "method must be one of nms, soft_nms, nmw, wbf, got 'mean'"),
        (dict(confidence='min'), 'confidence must be one of avg, max'),
        (dict(iou_threshold=1), 'iou_threshold must be between 0 and 1, got 1'),
        (dict(sigma=0), 'sigma must be above 0'),
        (dict(most_per_image=0), 'most_per_image must be at least 1, got 0'),
    ):
        with pytest.raises(AnnotationError, match=message):
            Fusion(**options)


def test_class_weights_are_read_from_csv_and_json(tmp_path):
    (tmp_path / 'w.csv').write_text('LabelName,a,b\n/m/apple,1,0.5\n\n/m/fruit,0,2\n')
    (tmp_path / 'w.json').write_text(json.dumps({'/m/apple': [1, 0.5], '/m/fruit': [0, 2]}))
    for name in ('w.csv', 'w.json'):
        assert read_class_weights(tmp_path / name, 2) == {'/m/apple': (1, 0.5), '/m/fruit': (0, 2)}
    for name, text, message in (
        ('w.csv', '/m/apple,1,2\n', r"csv:1: expected the header 'LabelName'"),
        ('w.csv', 'LabelName,a,b\n/m/apple,1\n', r"csv:2: expected one weight for each of the 2 sets, got \['1'\]"),
        ('w.csv', 'LabelName,a,b\n/m/apple,1,x\n', r"csv:2: could not convert string to float: 'x'"),
        ('w.csv', 'LabelName,a,b\n/m/apple,1,1\n/m/apple,1,1\n', r'csv:3: class .* earlier line already'),
        ('w.csv', 'LabelName,a,b\n/m/apple,0,-1\n', r'csv:2: weights must be at least 0'),
        ('w.json', '{"/m/apple": 1}', r'json: /m/apple: expected one weight for each'),
        ('w.json', '[1]', r'json: expected an object'),
        ('w.json', '{', r'json: cannot be read as JSON'),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(AnnotationError, match=message):
            read_class_weights(tmp_path / name, 2)


def test_the_package_is_loaded_only_to_fuse_and_told_when_it_is_missing(tmp_path, monkeypatch):
    code = 'import sys, mmoid.openimages.predictions.fusion; assert not {"numba", "ensemble_boxes", "torch"} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=Path(__file__).parents[3])
    store = make_store(tmp_path / 'store', [], ['a'])
    monkeypatch.setitem(sys.modules, 'ensemble_boxes', None)
    with pytest.raises(AnnotationError, match=r"pip install 'mmoid\[ensemble\]'"):
        run_ensemble(match_sets([store]), Fusion(), tmp_path / 'out')
    assert not list(tmp_path.glob('out*'))
