"""The metric in real runs: one process and two, logs, best checkpoint, nothing to evaluate."""

import json
import math
from pathlib import Path

import pytest
from mmengine.runner import Runner

from mmoid.openimages.readers.official_csv import convert
from tests.engine.machines import launches, on_one_machine
from tests.evaluation import prediction_run
from tests.official_files import write_files
from tests.tool_runs import logged_scalars


def config(data_root, work_dir, **options):
    """One iteration of training of the detector of prediction_run, then validation; ``options`` override it."""
    cfg = prediction_run.config(data_root, work_dir)
    loader, (metric,), _ = (cfg.pop(name) for name in ('test_dataloader', 'test_evaluator', 'test_cfg'))
    validation = f'{data_root}/validation'
    cfg.model.ann_file = validation
    cfg.train_dataloader = dict(loader, dataset=dict(loader.dataset, test_mode=False, indices=2))
    # One image a batch, so that what is found does not depend on the rank; with two ranks, one of 11 is tested twice.
    cfg.val_dataloader = dict(loader, batch_size=1, dataset=dict(loader.dataset, ann_file=validation, indices=11))
    files = dict(train_ann_file=f'{data_root}/train', outfile_prefix=f'{work_dir}/val')
    cfg.val_evaluator = dict(metric, ann_file=validation, **files)
    cfg.train_cfg, cfg.val_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1), dict(type='ValLoop')
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
    cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook', save_best='auto'))
    cfg.merge_from_dict(dict(experiment_name='metric', launcher='none') | options)
    return cfg


def scalars_of(work_dir: Path) -> dict:
    (line,) = [line for line in logged_scalars(work_dir) if 'openimages/mAP' in line]
    return {name: value for name, value in line.items() if name.startswith('openimages/')}


@pytest.fixture(scope='module')
def one_process(tiny_data, tmp_path_factory) -> Path:
    work_dir = tmp_path_factory.mktemp('one')
    Runner.from_cfg(config(tiny_data, work_dir, custom_imports=None)).train()
    return work_dir


def test_a_run_logs_the_map_of_groups_and_writes_tables(one_process, tiny_data):
    scalars = scalars_of(one_process)
    figures = json.loads((one_process / 'val.json').read_text())
    assert 0 < scalars['openimages/mAP'] == figures['mAP'] < 0.9
    assert figures['num_images'] == 11
    groups = {name: group['mAP'] for name, group in figures['groups'].items() if group['mAP'] is not None}
    assert {'head', 'middle', 'tail', 'leaf', 'parent', 'level1', 'level2'} <= set(groups)
    assert {name: scalars[f'openimages/mAP_{name}'] for name in groups} == groups
    assert scalars['openimages/multi_label_recall'] == figures['multi_label_objects']['recall']
    assert len(set(groups.values())) > 3, 'equal groups would show nothing'
    assert (one_process / 'val.csv').read_text().count('\n') == 1 + figures['num_classes']
    assert (one_process / 'best_openimages_mAP_epoch_1.pth').exists()
    (log,) = one_process.glob('*/*.log')
    text = log.read_text()
    assert f'mAP {figures["mAP"]:.4f} ({figures["protocol"]})' in text
    assert f'{figures["groups"]["tail"]["meaning"]} ' in text and '| mAP tail' in text


def test_two_processes_log_the_same_as_one(one_process, tiny_data, tmp_path):
    config(tiny_data, tmp_path).dump(str(tmp_path / 'run.py'))
    with launches(on_one_machine(tmp_path / 'run.py')) as (run,):
        assert run.finish() == 0, run.text()
    assert scalars_of(tmp_path) == scalars_of(one_process)
    assert (tmp_path / 'val.json').read_text() == (one_process / 'val.json').read_text()


def test_a_set_without_boxes_logs_nan_and_saves_no_best_checkpoint(tiny_data, tmp_path):
    files = write_files(tmp_path / 'official', boxes='ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n')
    convert(tmp_path / 'empty', **files)
    empty = str(tmp_path / 'empty')
    options = {
        'model.ann_file': empty,
        'val_dataloader.dataset.ann_file': empty,
        'val_dataloader.dataset.indices': 2,
        'val_evaluator.ann_file': empty,
        'val_evaluator.train_ann_file': None,
        'experiment_name': 'nothing to evaluate',
        'custom_imports': None,
    }
    Runner.from_cfg(config(tiny_data, tmp_path / 'run', **options)).train()
    scalars = scalars_of(tmp_path / 'run')
    assert list(scalars) == ['openimages/mAP'] and math.isnan(scalars['openimages/mAP'])
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert f'evaluator.ann_file = {empty}: has no boxes, so mAP will be NaN' in log.read_text()
    assert (tmp_path / 'run' / 'epoch_1.pth').exists()
    assert not list((tmp_path / 'run').glob('best_*'))
    assert json.loads((tmp_path / 'run' / 'val.json').read_text())['mAP'] is None
