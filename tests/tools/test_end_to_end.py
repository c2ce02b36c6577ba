"""The tools prepare, train and test, as you run them."""

import csv
import json
from pathlib import Path

import pytest
import torch
from mmdet.apis import inference_detector, init_detector

from mmoid.models.losses import concurrent_softmax
from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.evaluator import evaluate_predictions
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.statistics.concurrent_rates import load_rates
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.checkpoints import read_checkpoint
from tests.official_files import BOXES, write_files
from tests.shared_data import open_images
from tests.tool_runs import ROOT, run, tool

CONFIG = 'configs/openimages/faster-rcnn_r18-small_fpn_2xb4-hybrid-3e-2e_openimages.py'
LOSS = 'model.roi_head.bbox_head.loss_cls'
# Two iterations in each of two stages, on two processes with four images each.
SHORT = (
    'train_cfg.max_epochs=2',
    'custom_hooks.0.stages.0.epochs=1',
    'custom_hooks.0.stages.1.epochs=1',
    'train_dataloader.dataset.indices=16',
    'default_hooks.logger.interval=1',
)


def data(root):
    return dict(MMOID_DATA_ROOT=str(root), MMOID_NUM_CLASSES=str(AnnotationStore(Path(root) / 'train').num_classes))


def lines_of(work_dir):
    (file,) = Path(work_dir).glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in file.read_text().splitlines()]


def result_of(work_dir):
    (file,) = Path(work_dir).glob('*/2*.json')
    return json.loads(file.read_text())


@pytest.fixture(scope='module')
def trained(tiny_data, tmp_path_factory):
    """Work folder of two short stages on two processes."""
    work_dir = tmp_path_factory.mktemp('trained')
    run('bash', 'tools/dist_train.sh', CONFIG, 2, '--work-dir', work_dir, '--cfg-options', *SHORT, **data(tiny_data))
    return work_dir


def test_two_processes_train_two_stages_and_validate(trained):
    training = [line for line in lines_of(trained) if 'loss' in line]
    assert [(line['epoch'], line['stage']) for line in training] == [(1, 1), (1, 1), (2, 2), (2, 2)]
    assert all('loss_cls' in line and 'loss_bbox' in line for line in training)
    assert [line['step'] for line in lines_of(trained) if 'openimages/mAP' in line] == [1, 2]
    checkpoint = read_checkpoint(trained / 'epoch_2.pth')
    assert 'roi_head.bbox_head.loss_cls.rates' in checkpoint['state_dict']
    assert checkpoint['meta']['stage'] == dict(index=1, name='soft balance')


def test_testing_on_two_processes_agrees_with_validation_and_saves_predictions(trained, tiny_data, tmp_path):
    outputs = ('--work-dir', tmp_path, '--out', tmp_path / 'predictions')
    run('bash', 'tools/dist_test.sh', CONFIG, trained / 'epoch_2.pth', 2, *outputs, **data(tiny_data))
    (validated,) = [line for line in lines_of(trained) if 'openimages/mAP' in line and line['step'] == 2]
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
    tool('test', CONFIG, trained / 'epoch_2.pth', *outputs, *options, **data(tiny_data))
    check_predictions(tmp_path, tiny_data)
    assert len(list(tmp_path.glob('*/painted/*'))) == AnnotationStore(tiny_data / 'validation').num_images
    assert not (tmp_path / Path(CONFIG).name).exists(), "testing must not overwrite a training's config"


def test_a_model_alone_is_enough_for_inference(trained, tiny_data, tmp_path, monkeypatch):
    for name, value in {**data(tiny_data), 'MMOID_DATA_ROOT': str(tmp_path / 'nowhere')}.items():
        monkeypatch.setenv(name, value)
    store = AnnotationStore(tiny_data / 'validation')
    state = read_checkpoint(trained / 'epoch_2.pth')['state_dict']
    model = init_detector(str(ROOT / CONFIG), str(trained / 'epoch_2.pth'), device='cpu')
    assert torch.equal(model.roi_head.bbox_head.loss_cls.rates, state['roi_head.bbox_head.loss_cls.rates'])
    found = inference_detector(model, str(store.image_folder / store.file_name(0))).pred_instances
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert tuple(model.dataset_meta['label_names']) == store.label_names


@pytest.fixture(scope='module')
def without_rates(trained, tmp_path_factory):
    """The trained model as the baseline's loss saves it."""
    checkpoint = read_checkpoint(trained / 'epoch_2.pth')
    del checkpoint['state_dict']['roi_head.bbox_head.loss_cls.rates']
    path = tmp_path_factory.mktemp('softmax')
    torch.save(checkpoint, path / 'epoch_2.pth')
    return path


@pytest.mark.parametrize('activation', ['SoftmaxLoss', 'ConcurrentSoftmaxLoss'])
@pytest.mark.parametrize('folder', ['trained', 'without_rates'])
def test_a_checkpoint_of_either_loss_predicts_with_either_activation(
    folder, activation, request, tiny_data, monkeypatch
):
    """The four entries of Table 2: scores are the asked activation of the logits that the head gives."""
    for name, value in data(tiny_data).items():
        monkeypatch.setenv(name, value)
    store = AnnotationStore(tiny_data / 'validation')
    options = {f'{LOSS}.type': activation, 'model.test_cfg.rcnn.score_thr': 0.0}
    checkpoint = request.getfixturevalue(folder) / 'epoch_2.pth'
    model = init_detector(str(ROOT / CONFIG), str(checkpoint), device='cpu', cfg_options=options)
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


def test_a_missing_file_of_rates_ends_the_run_before_it_trains(tiny_data, tmp_path):
    options = ('--cfg-options', *SHORT, f'{LOSS}.concurrent_rates=nowhere.npz')
    done = tool('train', CONFIG, '--work-dir', tmp_path, *options, check=False, **data(tiny_data))
    assert done.returncode != 0
    assert 'loss_cls.concurrent_rates = nowhere.npz: no such file' in done.stderr
    assert 'Epoch(train)' not in done.stdout


def test_an_output_that_cannot_be_written_ends_a_test_in_one_line(trained, tiny_data, tmp_path):
    (tmp_path / 'file').touch()
    outputs = ('--work-dir', tmp_path / 'work', '--out', tmp_path / 'file' / 'predictions')
    done = tool('test', CONFIG, trained / 'epoch_2.pth', *outputs, check=False, **data(tiny_data))
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert f'{tmp_path / "file"} is not a writable directory; give another --out' in done.stderr
    assert 'Epoch(test)' not in done.stdout


def test_launchers_without_arguments_print_their_usage():
    for name in ('dist_train', 'dist_test', 'dist_predict'):
        done = run('bash', f'tools/{name}.sh', check=False)
        assert done.returncode == 2
        assert f'bash tools/{name}.sh CONFIG' in done.stderr


def test_preparing_prints_a_summary_and_reports_bad_input_in_one_line(tmp_path):
    files = write_files(tmp_path)
    names = dict(boxes='boxes', labels='image_labels', classes='classes', hierarchy='hierarchy', images='images')
    options = [part for option, name in names.items() for part in (f'--{option}', files[name])]
    done = tool('prepare_openimages', *options, '--out', tmp_path / 'store')
    assert 'images without boxes' in done.stdout and 'dropped' in done.stdout
    (tmp_path / 'boxes.csv').write_text(BOXES.replace('0.25,0.75,0.25', '0.25,7.5,0.25'))
    done = tool('prepare_openimages', *options, '--out', tmp_path / 'store', '--overwrite', check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith('error: ') and 'boxes.csv:6: XMax = 7.5' in done.stderr


def test_real_photographs_train_the_baseline_which_is_tested_with_concurrent_softmax(tmp_path):
    fruit = open_images('fruit')
    with open(open_images('classes/class-descriptions-boxable.csv')) as stream:
        rows = [row for row in csv.reader(stream) if row[1] in ('Apple', 'Orange', 'Fruit', 'Food')]
    with open(tmp_path / 'classes.csv', 'w', newline='') as stream:
        csv.writer(stream).writerows(rows)
    hierarchy = open_images('hierarchy/bbox_labels_600_hierarchy.json')
    for split in ('train', 'validation'):
        source = ('--boxes', fruit / f'{split}-annotations-bbox.csv', '--images', fruit / split)
        classes = ('--classes', tmp_path / 'classes.csv', '--hierarchy', hierarchy)
        tool('prepare_openimages', *source, *classes, '--out', tmp_path / split)
    assert AnnotationStore(tmp_path / 'train').num_boxes == 1001
    tool('concurrent_rates', tmp_path / 'train', '--out', tmp_path / 'concurrent_rates.npz')
    work_dir = tmp_path / 'work'
    options = ('--work-dir', work_dir, '--cfg-options', *SHORT, 'val_dataloader.dataset.indices=4')
    run('bash', 'tools/dist_train.sh', CONFIG, 2, *options, f'{LOSS}.type=SoftmaxLoss', **data(tmp_path))
    assert [line['stage'] for line in lines_of(work_dir) if 'loss' in line] == [1, 1, 2, 2]
    assert f'{LOSS}.rates'.removeprefix('model.') not in read_checkpoint(work_dir / 'epoch_2.pth')['state_dict']
    options = ('--work-dir', tmp_path / 'test', '--cfg-options', f'{LOSS}.type=ConcurrentSoftmaxLoss')
    tool('test', CONFIG, work_dir / 'epoch_2.pth', *options, **data(tmp_path))
    assert 0 <= result_of(tmp_path / 'test')['openimages/mAP'] <= 1


@pytest.mark.slow
def test_the_quickstart_learns_and_draws():
    run('bash', 'tools/quickstart.sh', timeout=3600)
    summary = json.loads((ROOT / 'work_dirs' / 'quickstart' / 'summary.json').read_text())
    assert summary['test_mAP'] >= 0.5
    assert all(Path(ROOT, figure).exists() for figure in summary['figures']) and len(summary['figures']) == 3
