"""Preparing, training, testing with the tools, as a person runs them."""

import csv
import json
import os
import shutil
import subprocess
import sys
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
from tests.tool_runs import tool_path

ROOT = Path(__file__).parents[2]
CONFIG = 'configs/openimages/faster-rcnn_r18-small_fpn_2xb4-hybrid-3e-2e_openimages.py'
LOSS = 'model.roi_head.bbox_head.loss_cls'
# Two iterations in each of two stages, on two processes with four pictures each.
SHORT = (
    'train_cfg.max_epochs=2',
    'custom_hooks.0.stages.0.epochs=1',
    'custom_hooks.0.stages.1.epochs=1',
    'train_dataloader.dataset.indices=16',
    'val_dataloader.dataset.indices=4',
    'default_hooks.logger.interval=1',
)


def run(*command, check=True, timeout=400, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, 'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}', **environment},
    )
    assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def tool(name, *arguments, check=True, **environment):
    return run(sys.executable, str(tool_path(name)), *arguments, check=check, **environment)


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


@pytest.fixture(scope='module')
def tested_by_two(trained, tiny_data, tmp_path_factory):
    """Work folder of the test of that model on two processes, with its predictions."""
    work_dir = tmp_path_factory.mktemp('tested')
    run(
        'bash', 'tools/dist_test.sh', CONFIG, trained / 'epoch_2.pth', 2, '--work-dir', work_dir,
        '--out', work_dir / 'predictions', **data(tiny_data),
    )  # fmt: skip
    return work_dir


def test_a_checkpoint_is_tested_on_two_processes_and_its_predictions_kept(tested_by_two, tiny_data):
    assert 0 <= result_of(tested_by_two)['openimages/mAP'] <= 1
    predictions = PredictionStore(tested_by_two / 'predictions')
    store = AnnotationStore(tiny_data / 'validation')
    assert sorted(predictions.image_ids()) == sorted(store.image_ids())
    assert predictions.label_names == store.label_names
    assert ((predictions.box > -1e-6) & (predictions.box < 1 + 1e-6)).all()


def test_one_process_gives_the_same_map_as_two_and_paints(trained, tested_by_two, tiny_data, tmp_path):
    options = ('--work-dir', tmp_path, '--show-dir', 'painted')
    tool('test', CONFIG, trained / 'epoch_2.pth', *options, **data(tiny_data))
    assert len(list(tmp_path.glob('*/painted/*'))) == AnnotationStore(tiny_data / 'validation').num_images
    assert result_of(tmp_path)['openimages/mAP'] == pytest.approx(result_of(tested_by_two)['openimages/mAP'], abs=1e-9)


@pytest.mark.parametrize('rule', [pytest.param('nms', marks=pytest.mark.slow), 'wbf'])
def test_views_of_a_picture_are_merged_by_a_rule_of_choice(trained, tiny_data, tmp_path, rule):
    options = ('--cfg-options', 'tta_model.tta_cfg.nms=None', f'tta_model.tta_cfg.fusion.method={rule}')
    tool(
        'test', CONFIG, trained / 'epoch_2.pth', '--work-dir', tmp_path, '--tta', '--out', tmp_path / 'predictions',
        *(options if rule != 'nms' else ()), **data(tiny_data),
    )  # fmt: skip
    predictions, store = PredictionStore(tmp_path / 'predictions'), AnnotationStore(tiny_data / 'validation')
    assert predictions.image_ids() == store.image_ids() and len(predictions.label)
    assert ((predictions.box > -1e-6) & (predictions.box < 1 + 1e-6)).all()
    figures = evaluate_predictions(annotations_of_store(store), predictions)
    assert result_of(tmp_path)['openimages/mAP'] == pytest.approx(figures.mean_ap, abs=1e-9)
    assert not (tmp_path / Path(CONFIG).name).exists(), 'the config of a training that lies there is not written over'


def test_validation_during_training_gives_the_figures_of_the_test_tool(trained, tiny_data, tmp_path):
    options = ('--cfg-options', 'test_dataloader.dataset.indices=4')
    tool('test', CONFIG, trained / 'epoch_2.pth', '--work-dir', tmp_path, *options, **data(tiny_data))
    (validated,) = [line for line in lines_of(trained) if 'openimages/mAP' in line and line['step'] == 2]
    tested = result_of(tmp_path)
    figures = [name for name in validated if name.startswith('openimages/')]
    assert 'openimages/mAP' in figures
    for name in figures:
        assert tested[name] == pytest.approx(validated[name], abs=1e-9)


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
def trained_with_softmax(tiny_data, tmp_path_factory):
    """Work folder of the same training on one process with the baseline's loss."""
    work_dir = tmp_path_factory.mktemp('softmax')
    options = (*SHORT, f'{LOSS}.type=SoftmaxLoss')
    tool('train', CONFIG, '--work-dir', work_dir, '--cfg-options', *options, **data(tiny_data))
    return work_dir


def test_the_loss_is_swapped_by_an_option(trained_with_softmax):
    checkpoint = read_checkpoint(trained_with_softmax / 'epoch_2.pth')
    assert 'roi_head.bbox_head.loss_cls.rates' not in checkpoint['state_dict']
    training = [line for line in lines_of(trained_with_softmax) if 'loss' in line]
    assert len(training) == 8 and all('loss_cls' in line for line in training)  # one process: four iterations a stage


@pytest.mark.parametrize('activation', ['SoftmaxLoss', 'ConcurrentSoftmaxLoss'])
@pytest.mark.parametrize('folder', ['trained', 'trained_with_softmax'])
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
    rates = torch.nn.functional.pad(torch.from_numpy(load_rates(tiny_data / 'concurrent_rates.npz')[0]), (0, 1, 0, 1))
    related = torch.from_numpy(store.hierarchy.ancestor_matrix)
    rates[:-1, :-1][related | related.T] = 1
    given = logits.softmax(1) if activation == 'SoftmaxLoss' else concurrent_softmax(logits, rates)
    others = logits.softmax(1) if activation != 'SoftmaxLoss' else concurrent_softmax(logits, rates)
    assert len(scores) and torch.cdist(scores[:, None], given[:, :-1].reshape(-1, 1)).amin(1).max() < 1e-6
    assert torch.cdist(scores[:, None], others[:, :-1].reshape(-1, 1)).amin(1).max() > 1e-6


def test_the_activation_is_swapped_by_an_option_of_the_test_tool(trained, trained_with_softmax, tiny_data, tmp_path):
    for work_dir, activation in ((trained, 'SoftmaxLoss'), (trained_with_softmax, 'ConcurrentSoftmaxLoss')):
        options = ('--work-dir', tmp_path / activation, '--cfg-options', f'{LOSS}.type={activation}')
        tool('test', CONFIG, work_dir / 'epoch_2.pth', *options, **data(tiny_data))
        assert 0 <= result_of(tmp_path / activation)['openimages/mAP'] <= 1


def test_an_interrupted_training_goes_on(trained, tiny_data, tmp_path):
    shutil.copy(trained / 'epoch_1.pth', tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    options = ('--resume', '--work-dir', tmp_path, '--cfg-options', *SHORT)
    done = run('bash', 'tools/dist_train.sh', CONFIG, 2, *options, **data(tiny_data))
    assert 'resumed epoch: 1' in done.stdout
    states = [read_checkpoint(folder / 'epoch_2.pth')['state_dict'] for folder in (trained, tmp_path)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        pytest.param(
            ('custom_hooks.0.stages.1.sampler.balance=-0.5',),
            'sampler.balance (λ) must be >= 0, got -0.5',
            marks=pytest.mark.slow,
        ),
        (
            ('model.roi_head.bbox_head.loss_cls.concurrent_rates=nowhere.npz',),
            'loss_cls.concurrent_rates = nowhere.npz: no such file',
        ),
        pytest.param(
            ('train_cfg.max_epochs=9',),
            'HybridSchedule.stages have 1 + 1 = 2 epochs, train_cfg.max_epochs is 9',
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_wrong_option_ends_the_run_before_it_trains(tiny_data, tmp_path, options, message):
    command = ('--work-dir', tmp_path, '--cfg-options', *SHORT, *options)
    done = tool('train', CONFIG, *command, check=False, **data(tiny_data))
    assert done.returncode != 0
    assert message in done.stderr
    assert 'Epoch(train)' not in done.stdout


def test_a_missing_picture_ends_the_run_before_it_trains(tiny_data, tmp_path):
    done = tool(
        'train', CONFIG, '--work-dir', tmp_path, '--cfg-options', *SHORT,
        f'train_dataloader.dataset.data_prefix.img={tmp_path}', check=False, **data(tiny_data),
    )  # fmt: skip
    assert done.returncode != 0
    assert 'no such image' in done.stderr and 'set data_prefix' in done.stderr


def test_the_launchers_say_how_they_are_used():
    for name in ('dist_train', 'dist_test'):
        done = run('bash', f'tools/{name}.sh', check=False)
        assert done.returncode == 2
        assert f'bash tools/{name}.sh CONFIG' in done.stderr


def test_preparing_prints_a_summary_and_tells_bad_input_in_one_line(tmp_path):
    files = write_files(tmp_path)
    options = [
        '--boxes', files['boxes'], '--labels', files['image_labels'], '--classes', files['classes'],
        '--hierarchy', files['hierarchy'], '--images', files['images'], '--out', tmp_path / 'store',
    ]  # fmt: skip
    done = tool('prepare_openimages', *options)
    assert 'images without boxes' in done.stdout and 'dropped' in done.stdout
    rates = tool('concurrent_rates', tmp_path / 'store', '--out', tmp_path / 'rates.npz')
    assert 'Apple' in rates.stdout and 'Orange' in rates.stdout
    (tmp_path / 'boxes.csv').write_text(BOXES.replace('0.25,0.75,0.25', '0.25,7.5,0.25'))
    done = tool('prepare_openimages', *options, '--overwrite', check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith('error: ') and 'boxes.csv:6: XMax = 7.5' in done.stderr
    done = tool('concurrent_rates', tmp_path / 'nowhere', '--out', tmp_path / 'rates.npz', check=False)
    assert done.returncode == 1 and 'no such folder' in done.stderr


def test_real_photographs_are_prepared_and_trained_on(tmp_path):
    fruit = open_images('fruit')
    with open(open_images('classes/class-descriptions-boxable.csv')) as stream:
        rows = [row for row in csv.reader(stream) if row[1] in ('Apple', 'Orange', 'Fruit', 'Food')]
    with open(tmp_path / 'classes.csv', 'w', newline='') as stream:
        csv.writer(stream).writerows(rows)
    for split in ('train', 'validation'):
        tool(
            'prepare_openimages', '--boxes', fruit / f'{split}-annotations-bbox.csv', '--images', fruit / split,
            '--classes', tmp_path / 'classes.csv', '--out', tmp_path / split,
            '--hierarchy', open_images('hierarchy/bbox_labels_600_hierarchy.json'),
        )  # fmt: skip
    assert AnnotationStore(tmp_path / 'train').num_boxes == 1001
    tool('concurrent_rates', tmp_path / 'train', '--out', tmp_path / 'concurrent_rates.npz')
    work_dir = tmp_path / 'work'
    run('bash', 'tools/dist_train.sh', CONFIG, 2, '--work-dir', work_dir, '--cfg-options', *SHORT, **data(tmp_path))
    assert [line['stage'] for line in lines_of(work_dir) if 'loss' in line] == [1, 1, 2, 2]
    tool('test', CONFIG, work_dir / 'epoch_2.pth', '--work-dir', tmp_path / 'test', **data(tmp_path))
    assert 0 <= result_of(tmp_path / 'test')['openimages/mAP'] <= 1


@pytest.mark.slow
def test_the_quickstart_learns():
    run('bash', 'tools/quickstart.sh', timeout=3600)
    summary = json.loads((ROOT / 'work_dirs' / 'quickstart' / 'summary.json').read_text())
    assert summary['test_mAP'] >= 0.5
    assert all(Path(ROOT, picture).exists() for picture in summary['pictures']) and len(summary['pictures']) == 3
