"""The tools prepare, train and test, as you run them."""

import json
from pathlib import Path

import pytest
import torch
from mmdet.apis import inference_detector, init_detector

from mmoid.engine.resume.checkpoint_hook import try_load
from mmoid.models.losses import concurrent_softmax
from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.evaluator import evaluate_predictions
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.statistics.concurrent_rates import load_rates
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.tool_runs import ROOT, data_environment, logged_scalars, run, tool
from tests.tool_runs import SMALL_CONFIG as CONFIG

LOSS = 'model.roi_head.bbox_head.loss_cls'
# Two iterations in each of two stages, on two processes with four images each.
SHORT = (
    'train_cfg.max_epochs=2',
    'custom_hooks.0.stages.0.epochs=1',
    'custom_hooks.0.stages.1.epochs=1',
    'train_dataloader.dataset.indices=16',
    'default_hooks.logger.interval=1',
)


def result_of(work_dir):
    (file,) = Path(work_dir).glob('*/2*.json')
    return json.loads(file.read_text())


@pytest.fixture(scope='module')
def trained(tiny_data, tmp_path_factory):
    """Work folder of two short stages on two processes."""
    work_dir = tmp_path_factory.mktemp('trained')
    options = ('--work-dir', work_dir, '--cfg-options', *SHORT)
    run('bash', 'tools/dist_train.sh', CONFIG, 2, *options, **data_environment(tiny_data))
    return work_dir


def test_two_processes_train_two_stages_and_validate(trained):
    training = [line for line in logged_scalars(trained) if 'loss' in line]
    assert [(line['epoch'], line['stage']) for line in training] == [(1, 1), (1, 1), (2, 2), (2, 2)]
    assert all('loss_cls' in line and 'loss_bbox' in line for line in training)
    assert [line['step'] for line in logged_scalars(trained) if 'openimages/mAP' in line] == [1, 2]
    checkpoint = try_load(trained / 'epoch_2.pth')
    assert 'roi_head.bbox_head.loss_cls.rates' in checkpoint['state_dict']
    assert checkpoint['meta']['stage'] == dict(index=1, name='soft balance')


def test_testing_on_two_processes_agrees_with_validation_and_saves_predictions(trained, tiny_data, tmp_path):
    outputs = ('--work-dir', tmp_path, '--out', tmp_path / 'predictions')
    run('bash', 'tools/dist_test.sh', CONFIG, trained / 'epoch_2.pth', 2, *outputs, **data_environment(tiny_data))
    (validated,) = [line for line in logged_scalars(trained) if 'openimages/mAP' in line and line['step'] == 2]
    expected = {name: value for name, value in validated.items() if name.startswith('openimages/')}
    tested = result_of(tmp_path)
    assert {name: tested[name] for name in expected} == pytest.approx(expected, abs=1e-9, nan_ok=True)
    check_predictions(tmp_path, tiny_data)


def check_predictions(work_dir, data_root):
    """The saved predictions are of all validation images, and have the mAP that the test tool reports."""
    predictions, store = PredictionStore(work_dir / 'predictions'), AnnotationStore(data_root / 'validation')
    assert sorted(predictions.image_ids()) == sorted(store.image_ids()) and len(predictions.label)
    assert predictions.label_names == store.label_names
    assert ((predictions.box > -1e-6) & (predictions.box < 1 + 1e-6)).all()
    figures = evaluate_predictions(annotations_of_store(store), predictions)
    assert result_of(work_dir)['openimages/mAP'] == pytest.approx(figures.mean_ap, abs=1e-9)


def test_test_time_augmentation_merges_views_by_the_chosen_method_and_paints(trained, tiny_data, tmp_path):
    options = ('--cfg-options', 'tta_model.tta_cfg.nms=None', 'tta_model.tta_cfg.fusion.method=wbf')
    outputs = ('--work-dir', tmp_path, '--tta', '--out', tmp_path / 'predictions', '--show-dir', 'painted')
    tool('test', CONFIG, trained / 'epoch_2.pth', *outputs, *options, **data_environment(tiny_data))
    check_predictions(tmp_path, tiny_data)
    assert len(list(tmp_path.glob('*/painted/*'))) == AnnotationStore(tiny_data / 'validation').num_images
    assert not (tmp_path / Path(CONFIG).name).exists(), "testing must not overwrite a training's config"


@pytest.mark.parametrize('activation', ['SoftmaxLoss', 'ConcurrentSoftmaxLoss'])
@pytest.mark.parametrize('saved_by', ['SoftmaxLoss', 'ConcurrentSoftmaxLoss'])
def test_a_checkpoint_of_either_loss_predicts_with_either_activation(
    saved_by, activation, trained, tiny_data, tmp_path, monkeypatch
):
    """The four entries of Table 2: scores are the asked activation of the logits that the head gives."""
    for name, value in data_environment(tiny_data).items():
        monkeypatch.setenv(name, value)
    store = AnnotationStore(tiny_data / 'validation')
    options = {f'{LOSS}.type': activation, 'model.test_cfg.rcnn.score_thr': 0.0}
    checkpoint = try_load(trained / 'epoch_2.pth')
    if saved_by == 'SoftmaxLoss':
        del checkpoint['state_dict']['roi_head.bbox_head.loss_cls.rates']
    torch.save(checkpoint, tmp_path / 'model.pth')
    model = init_detector(str(ROOT / CONFIG), str(tmp_path / 'model.pth'), device='cpu', cfg_options=options)
    logits = []
    model.roi_head.bbox_head.register_forward_hook(lambda module, inputs, outputs: logits.append(outputs[0]))
    scores = inference_detector(model, str(store.image_folder / store.file_name(0))).pred_instances.scores
    (logits,) = logits
    rates = torch.from_numpy(load_rates(tiny_data / 'concurrent_rates.npz')[0].toarray())
    rates = torch.nn.functional.pad(rates, (0, 1, 0, 1))
    related = torch.from_numpy(store.hierarchy.ancestor_matrix)
    rates[:-1, :-1][related | related.T] = 1
    given = logits.softmax(1) if activation == 'SoftmaxLoss' else concurrent_softmax(logits, rates)
    others = logits.softmax(1) if activation != 'SoftmaxLoss' else concurrent_softmax(logits, rates)
    assert len(scores) and torch.cdist(scores[:, None], given[:, :-1].reshape(-1, 1)).amin(1).max() < 1e-6
    assert torch.cdist(scores[:, None], others[:, :-1].reshape(-1, 1)).amin(1).max() > 1e-6


@pytest.mark.slow
def test_the_quickstart_learns_and_draws():
    run('bash', 'tools/quickstart.sh', timeout=3600)
    summary = json.loads((ROOT / 'work_dirs' / 'quickstart' / 'summary.json').read_text())
    assert summary['test_mAP'] >= 0.5
    assert all(Path(ROOT, figure).exists() for figure in summary['figures']) and len(summary['figures']) == 3
