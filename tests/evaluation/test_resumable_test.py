"""A test run that is killed and started again: the same bytes and figures, nothing tested twice."""

import json
import re
import sys
import time

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

import mmoid.registry  # noqa: F401
from mmoid.engine.settings import enable_out
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.evaluator import evaluate_predictions
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.engine.machines import Launch
from tests.evaluation import prediction_run
from tests.openimages.predictions.prediction_cases import contents
from tests.tool_runs import ROOT

IMAGES = 48


def make_config(data_root, work_dir, **model):
    work_dir.mkdir(parents=True, exist_ok=True)
    return prediction_run.config(data_root, work_dir, **model)


def in_process(cfg, checkpoint, out=None, **dump):
    """What ``tools/test.py`` does, here; with ``out`` what it does with ``--out``."""
    cfg = cfg.copy()
    cfg.load_from, cfg.custom_imports = str(checkpoint), None
    if out is not None:
        cfg.test_cfg = dict(type='mmoid.ResumableTestLoop')
        cfg.test_evaluator = [*cfg.test_evaluator, dict(type='mmoid.PredictionDump', out=str(out), **dump)]
    return Runner.from_cfg(cfg).test()


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('checkpoint') / 'model.pth'
    torch.save(dict(state_dict=dict(weight=torch.tensor(3.0))), path)
    return path


@pytest.fixture(scope='module')
def whole(tiny_data, checkpoint, tmp_path_factory):
    """Files and figures of an uninterrupted run."""
    folder = tmp_path_factory.mktemp('whole')
    cfg = make_config(tiny_data, folder)
    figures = in_process(cfg, checkpoint, folder / 'predictions')
    assert figures['openimages/mAP'] > 0
    return contents(folder / 'predictions'), figures


def seen(work_dir):
    return prediction_run.seen(work_dir / 'seen.txt')


def launch(work_dir, checkpoint, processes, images=IMAGES):
    """Starts tools/test.py, or tools/dist_test.sh with several processes, to wait after some images."""
    command = [sys.executable, 'tools/test.py', work_dir / 'run.py', checkpoint]
    if processes > 1:
        command = ['bash', 'tools/dist_test.sh', work_dir / 'run.py', checkpoint, processes]
    output, most = work_dir / f'output{time.time():.2f}.txt', len(seen(work_dir)) + images
    return Launch([*command, '--out', work_dir / 'predictions'], output, SEE_NO_MORE_THAN=most)


def kill_after(images, work_dir, checkpoint, processes, one_rank):
    """Kills a run, or one rank of it, when it has tested so many images; returns when no process is left."""
    until = len(seen(work_dir)) + images
    run = launch(work_dir, checkpoint, processes, images)
    while len(seen(work_dir)) < until:
        assert run.poll() is None, run.text()
        time.sleep(0.02)
    if one_rank:
        run.kill('rank 1')
    else:
        run.clear()
        run.finish(timeout=60)


def images_of(work_dir):
    """Images in finished shards."""
    shards = sorted((work_dir / 'predictions.parts').glob('images-*'))
    return [image for shard in shards for image in PredictionStore(shard).image_ids()]


def test_a_test_killed_three_times_ends_like_an_uninterrupted_one(tiny_data, checkpoint, whole, tmp_path):
    make_config(tiny_data, tmp_path).dump(str(tmp_path / 'run.py'))
    for processes, images, one_rank in ((2, 16, True), (1, 8, False), (2, 8, False)):  # their number may change
        kill_after(images, tmp_path, checkpoint, processes, one_rank)
        assert not (tmp_path / 'predictions').exists()
    kept, before = images_of(tmp_path), len(seen(tmp_path))
    assert 12 <= len(kept) <= 32
    run = launch(tmp_path, checkpoint, processes)
    assert run.finish() == 0, run.text()
    assert f'predictions.parts: {len(kept)} of {IMAGES} images were tested before' in run.text()
    files, figures = whole
    assert contents(tmp_path / 'predictions') == files
    assert not (tmp_path / 'predictions.parts').exists()
    latest = max(tmp_path.glob('*/2*.json'), key=lambda path: path.stat().st_mtime)
    written = json.loads(latest.read_text())
    assert {name: written[name] for name in figures} == pytest.approx(figures, abs=0, nan_ok=True)
    assert sorted(seen(tmp_path)[before:] + kept) == sorted(AnnotationStore(tiny_data / 'train').image_ids())


class Stop(Exception):
    pass


def stop(*_, **__):
    raise Stop


@pytest.fixture
def stopped(tiny_data, checkpoint, tmp_path, monkeypatch):
    """The config of a run that stopped after 20 images."""
    cfg, find = make_config(tiny_data, tmp_path), prediction_run.PixelDetector.forward

    def forward(*args, **kwargs):
        return (find if len(seen(tmp_path)) < 20 else stop)(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(prediction_run.PixelDetector, 'forward', forward)
        in_process(cfg, checkpoint, tmp_path / 'predictions')
    assert len(images_of(tmp_path)) == 18  # shards of six: one in eight
    return cfg


def test_another_run_is_refused_until_the_shards_are_removed(stopped, checkpoint, whole, tmp_path):
    out = tmp_path / 'predictions'
    other = tmp_path / 'other.pth'
    torch.save(dict(state_dict=dict(weight=torch.tensor(4.0))), other)

    for what, weights, changed in (
        ('checkpoint', other, {}),
        ('model', checkpoint, {'model.scale': 0.5}),
        ('data set', checkpoint, {'test_dataloader.dataset.pipeline.1.scale': (32, 32)}),
        ('data set and num images', checkpoint, {'test_dataloader.dataset.indices': 7}),
        ('batch size', checkpoint, {'test_dataloader.batch_size': 1}),
    ):
        cfg = stopped.copy()
        cfg.merge_from_dict(changed)
        message = rf'has shards of a test run with a different {what}; .*\(--restart\)'
        with pytest.raises(AnnotationError, match=message):
            in_process(cfg, weights, out)
    assert len(images_of(tmp_path)) == 18
    in_process(stopped, other, out, restart=True)
    assert contents(out) != whole[0]


def test_a_changed_data_set_with_the_same_config_is_an_error(stopped, checkpoint, tmp_path, monkeypatch):
    images = AnnotationStore.image_id
    monkeypatch.setattr(AnnotationStore, 'image_id', lambda self, image: f'new{images(self, image)}')
    with pytest.raises(AnnotationError, match=r"parts: image 0 is '\w+', in the data set it is 'new\w+'"):
        in_process(stopped, checkpoint, tmp_path / 'predictions')


def test_a_metric_that_needs_more_than_predictions_cannot_resume(stopped, checkpoint, tmp_path):
    cfg = stopped.copy()
    cfg.test_evaluator = [dict(type='DumpResults', out_file_path=str(tmp_path / 'x.pkl'))]
    with pytest.raises(ValueError, match=r'test_evaluator: DumpResults needs more than the predictions in'):
        in_process(cfg, checkpoint, tmp_path / 'predictions')


def test_a_run_killed_after_its_last_image_only_joins_shards(stopped, checkpoint, whole, tmp_path, monkeypatch):
    out = tmp_path / 'predictions'
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr('mmoid.openimages.predictions.shards._map_values', stop)  # when the columns are joined
        in_process(stopped, checkpoint, out)
    before = len(seen(tmp_path))
    assert len(images_of(tmp_path)) == IMAGES
    figures = in_process(stopped, checkpoint, out)
    assert (contents(out), figures) == (whole[0], pytest.approx(whole[1], abs=0, nan_ok=True))
    assert len(seen(tmp_path)) == before


def test_what_is_evaluated_with_ancestors_is_written_with_ancestors(tiny_data, checkpoint, whole, tmp_path):
    cfg = make_config(tiny_data, tmp_path)
    cfg.test_evaluator[0].expand_detections = True
    enable_out(cfg, str(tmp_path / 'predictions'))
    figures = in_process(cfg, checkpoint)
    annotations = annotations_of_store(AnnotationStore(tiny_data / 'train'))
    written = evaluate_predictions(annotations, PredictionStore(tmp_path / 'predictions'))
    assert written.scalars()['mAP'] == pytest.approx(figures['openimages/mAP'], abs=1e-4)  # float32 boxes
    assert figures['openimages/mAP'] != whole[1]['openimages/mAP']


def test_only_predictions_are_replaced(tiny_data, checkpoint, whole, tmp_path):
    cfg = make_config(tiny_data, tmp_path, scale=0.5)
    in_process(cfg, checkpoint, tmp_path / 'predictions')
    assert contents(tmp_path / 'predictions') != whole[0]
    in_process(make_config(tiny_data, tmp_path), checkpoint, tmp_path / 'predictions')
    assert contents(tmp_path / 'predictions') == whole[0]
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('years of work')
    with pytest.raises(FileExistsError, match='was not written by mmoid'):
        mmoid.PredictionDump(str(tmp_path / 'mine'))


def test_the_store_has_the_detections_of_the_model(tiny_data, checkpoint, whole, tmp_path):
    cfg = make_config(tiny_data, tmp_path)
    in_process(cfg, checkpoint, tmp_path / 'predictions', images_per_shard=100)
    store = PredictionStore(tmp_path / 'predictions')
    annotations = AnnotationStore(tiny_data / 'train')
    assert store.image_ids() == annotations.image_ids()
    assert (store.label_names, store.class_names) == (annotations.label_names, annotations.class_names)
    plain = cfg.copy()
    plain.load_from, plain.custom_imports = str(checkpoint), None
    runner = Runner.from_cfg(plain)
    runner.load_or_resume()
    found = [
        sample for batch in runner.build_dataloader(cfg.test_dataloader) for sample in runner.model.test_step(batch)
    ]
    for k, sample in enumerate(found):
        rows = slice(store.detection_stop[k - 1] if k else 0, store.detection_stop[k])
        height, width = sample.ori_shape
        instances = sample.pred_instances
        assert (store.box[rows] == instances.bboxes.detach().double().numpy() / (width, height, width, height)).all()
        assert (store.score[rows] == instances.scores.detach().numpy()).all()
        assert store.label[rows].tolist() == instances.labels.tolist()
    assert sum(len(sample.pred_instances) for sample in found) == len(store.label) > 500


def test_settings_that_cannot_be_resumed_are_errors(tiny_data, checkpoint, tmp_path):
    out = tmp_path / 'predictions'
    dump = [dict(type='mmoid.PredictionDump', out=str(out))]
    for changed, to, message in (
        ({'test_dataloader.sampler.shuffle': True}, out, r"needs sampler=dict\(type='DefaultSampler', shuffle=False\)"),
        ({'test_dataloader.batch_sampler': dict(type='AspectRatioBatchSampler')}, out, 'no batch_sampler'),
        ({'test_evaluator': dump}, out, 'at most one PredictionDump, got 2'),
        ({'test_evaluator': dump}, None, r"PredictionDump needs test_cfg=dict\(type='mmoid.ResumableTestLoop'\)"),
    ):
        cfg = make_config(tiny_data, tmp_path)
        cfg.merge_from_dict(changed)
        with pytest.raises(ValueError, match=message):
            in_process(cfg, checkpoint, to)
    with pytest.raises(ValueError, match='images_per_shard must be at least 1, got 0'):
        mmoid.PredictionDump(str(out), images_per_shard=0)


def test_the_examples_of_the_guide(tiny_data, checkpoint, whole, tmp_path):
    """The examples of docs/predictions.md: a store, a config, and views at several scales."""
    store, own, views = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'predictions.md').read_text(), re.DOTALL)
    own = own.replace('data/openimages/validation', str(tiny_data / 'train'))
    own, store = (text.replace('work_dirs/mine/predictions', str(tmp_path / 'predictions')) for text in (own, store))
    cfg = make_config(tiny_data, tmp_path)
    cfg.merge_from_dict(Config.fromstring(own, '.py').to_dict())
    in_process(cfg, checkpoint)
    assert contents(tmp_path / 'predictions') == whole[0]
    names = {}
    exec(store, names)
    assert names['rows'].stop == names['store'].detection_stop[7] > names['rows'].start
    pipeline = Config.fromstring(views, '.py').tta_pipeline
    cfg.test_dataloader.dataset.pipeline = pipeline
    (item,) = Runner.build_dataloader(cfg.test_dataloader).dataset.get_subset([0])
    assert [sample.flip for sample in item['data_samples']] == [True, False] * 3
    assert len({sample.img_shape for sample in item['data_samples']}) == 3
