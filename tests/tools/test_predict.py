"""The tool predict, as you run it: images without annotations, and no data of the config."""

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from PIL import Image

from mmoid.engine.launch import load_config
from mmoid.openimages.predictions.csv_files import read_predictions
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.tool_runs import ROOT, data_environment, run, tool
from tests.tool_runs import SMALL_CONFIG as CONFIG

ALL_SCORES = ('--cfg-options', 'model.test_cfg.rcnn.score_thr=0.0', 'model.test_cfg.rcnn.max_per_img=20')


@pytest.fixture(scope='module')
def store(tiny_data):
    return AnnotationStore(tiny_data / 'validation')


@pytest.fixture(scope='module')
def checkpoint(tiny_data, store, tmp_path_factory):
    """A detector that has not been trained, with rates, ancestors and class names."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in data_environment(tiny_data).items():
            patch.setenv(name, value)
        cfg = load_config(ROOT / CONFIG)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    path = tmp_path_factory.mktemp('model') / 'random.pth'
    meta = dict(dataset_meta=dict(classes=store.class_names, label_names=store.label_names))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@pytest.fixture
def without_data(store, tmp_path):
    """Environment of a machine that has no data."""
    return dict(MMOID_DATA_ROOT=str(tmp_path / 'nowhere'), MMOID_NUM_CLASSES=str(store.num_classes))


@pytest.fixture
def photos(store, tmp_path):
    """Four good images, one in a sub-folder, and one that ends early."""
    folder = tmp_path / 'photos'
    (folder / 'more').mkdir(parents=True)
    for k, name in enumerate(['b.jpg', 'a.png', 'more/c.jpg', 'd.jpg']):
        with Image.open(store.image_folder / store.file_name(k)) as image:
            image.save(folder / name)
    (folder / 'cut.jpg').write_bytes((folder / 'b.jpg').read_bytes()[:-400])
    return folder


def test_a_folder_is_predicted_and_drawn_and_broken_images_are_skipped(
    checkpoint, without_data, store, photos, tmp_path
):
    out, rows = tmp_path / 'out', tmp_path / 'rows.csv'
    command = ('predict', CONFIG, checkpoint, photos, '--out', out, '--work-dir', tmp_path / 'work')
    outputs = ('--csv', rows, '--draw', tmp_path / 'drawn', '--score-thr', 0.24, '--batch-size', 2, '--strict')
    done = tool(*command, *outputs, *ALL_SCORES, check=False, **without_data)
    assert done.returncode == 1, done.stderr
    predictions = PredictionStore(out)
    assert predictions.image_ids() == ['a', 'b', 'd', 'c'] and predictions.label_names == store.label_names
    assert f'{out}: {len(predictions.label)} detections on 4 images' in done.stdout
    assert 'skipped 1 of 5 images' in done.stdout and 'cut.jpg (image file is truncated' in done.stdout
    assert f'Next: mmoid submission {out}' in done.stdout
    kept = predictions.score >= 0.24
    written = read_predictions(rows)
    assert 0 < kept.sum() < len(kept)
    assert (written.score.astype('f4') == predictions.score[kept]).all()
    assert abs(written.box - predictions.box[kept]).max() < 1e-6
    names = [predictions.label_names[k] for k in predictions.label[kept]]
    assert [written.label_names[k] for k in written.label] == names
    assert {path.name for path in (tmp_path / 'drawn').iterdir()} == {'a.png', 'b.png', 'c.png', 'd.png'}
    ancestors = AnnotationStore(tmp_path / 'out.store').hierarchy.ancestor_matrix
    assert ancestors.any() and (ancestors == store.hierarchy.ancestor_matrix).all()
    best = [predictions.score[predictions.label == k].max(initial=0) for k in range(store.num_classes)]
    assert all(best[above] >= best[below] for below, above in zip(*ancestors.nonzero()))


def test_two_processes_write_a_submission_with_every_id_of_the_list_in_its_order(
    checkpoint, without_data, photos, tmp_path
):
    ids = ['d', 'cut', 'nowhere', 'a', 'c']
    (tmp_path / 'list.csv').write_text('ImageId,PredictionString\n' + ''.join(f'{name},\n' for name in ids))
    files = ('--images', photos, '--out', tmp_path / 'out', '--submission', tmp_path / 'submission.csv')
    command = ('tools/dist_predict.sh', CONFIG, checkpoint, 2, tmp_path / 'list.csv', *files, '--work-dir', tmp_path)
    done = run('bash', *command, *ALL_SCORES, **without_data)
    assert PredictionStore(tmp_path / 'out').image_ids() == ['d', 'a', 'c']
    submission = read_predictions(tmp_path / 'submission.csv')
    assert submission.image_ids() == ids
    assert 'skipped 2 of 5 images' in done.stdout and f'nowhere: no file below {photos}' in done.stdout


def test_shards_of_other_images_are_an_error_of_one_line(checkpoint, without_data, photos, tmp_path):
    (tmp_path / 'out.parts').mkdir()
    command = ('predict', CONFIG, checkpoint, photos, '--out', tmp_path / 'out', '--work-dir', tmp_path)
    done = tool(*command, check=False, **without_data)
    assert done.returncode == 1, done.stderr
    assert 'out.parts: is of a killed run on other images' in done.stderr.splitlines()[-1]
