import argparse
import json
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
import torch.distributed
from mmengine.config import Config

import mmoid.registry  # noqa: F401
from mmoid.engine.launch import add_cfg_options, build_runner, enable_amp, end_launch, load_config, prepare_launch
from mmoid.engine.settings import enable_out, enable_tta, predict_on, type_name
from tests.engine import small_run
from tests.engine.run_checks import log
from tests.evaluation import prediction_run


@pytest.mark.parametrize('rank', [0, 1])
def test_only_rank_0_writes_the_figures_of_a_test(tiny_data, tmp_path, monkeypatch, rank):
    """mmengine's LoggerHook writes them from every rank, into one file."""
    cfg = prediction_run.config(tiny_data, tmp_path)
    cfg.custom_imports, cfg.launcher, cfg.load_from = None, 'none', str(tmp_path / 'model.pth')
    torch.save(dict(state_dict=dict(weight=torch.tensor(3.0))), cfg.load_from)
    monkeypatch.setattr('mmengine.dist.utils.is_main_process', lambda: rank == 0)
    figures = build_runner(cfg).test()
    assert 'openimages/mAP' in figures
    written = [json.loads(path.read_text()) for path in tmp_path.glob('*/2*.json')]
    assert [one['openimages/mAP'] for one in written] == [figures['openimages/mAP']] * (rank == 0)


def test_a_successful_run_leaves_no_gloo_thread():
    """One that is left may hold tensors until Python has ended, which can abort the process."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    assert threads_of_gloo()
    del model
    end_launch()
    assert not torch.distributed.is_initialized() and not threads_of_gloo()
    end_launch()  # of one process there is nothing to leave


def test_workers_end_by_themselves_with_a_run(monkeypatch):
    """They do when they are asked to, or after idle 5 s; torch waits as long, here less, and then ends them."""
    loader = torch.utils.data.DataLoader(range(4), num_workers=1, persistent_workers=True)
    assert len(list(loader)) == 4
    terminated = MagicMock()
    monkeypatch.setattr(loader._iterator._workers[0], 'terminate', terminated)
    monkeypatch.setattr('torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL', 3)
    loader.itself = loader  # like a Runner's, only the garbage collector can remove it
    del loader
    end_launch()
    terminated.assert_not_called()


def threads_of_gloo():
    return [path for path in Path('/proc/self/task').glob('*/comm') if 'gloo' in path.read_text()]


def test_several_cpu_processes_keep_the_settings_of_the_model_wrapper(monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr('torch.cuda.set_device', None)
    cfg = Config(dict(launcher='pytorch', model_wrapper_cfg=dict(find_unused_parameters=True, static_graph=True)))
    prepare_launch(cfg)
    assert cfg.env_cfg.dist_cfg.backend == 'gloo'
    given = dict(find_unused_parameters=True, static_graph=True)
    assert cfg.model_wrapper_cfg == dict(
        given, type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
    )


def test_sync_bn_becomes_bn_without_cuda_with_a_message(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr('torch.cuda.set_device', None)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setattr('mmoid.engine.launch.ctypes.CDLL', MagicMock())
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        options = {'model.norm': 'SyncBN', 'sync_bn': 'torch', 'launcher': 'pytorch', 'find_unused_parameters': True}
        run = build_runner(small_run.config(tiny_data, tmp_path, **options))
        assert type(run.model.module.features[1]).__name__ == '_BatchNormXd'
        assert run.model.find_unused_parameters
        assert 'SyncBN needs CUDA: each process norm' in log(run)
        del run
    finally:
        end_launch()


def test_a_process_outside_of_slurm_is_refused(monkeypatch):
    monkeypatch.delenv('SLURM_PROCID', raising=False)
    with pytest.raises(ValueError, match='SLURM_PROCID is not set, so srun did not start this process; use tools/slu'):
        prepare_launch(Config(dict(launcher='slurm')))


NEW_STYLE = """
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmdet.models import FasterRCNN
from mmengine.optim import OptimWrapper
from mmengine.runner import TestLoop

default_scope = None
model = dict(type=FasterRCNN, test_cfg=dict(rcnn=dict(max_per_img=50)))
pipeline = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations, with_bbox=True), dict(type=PackDetInputs)]
test_dataloader = dict(batch_size=1, dataset=dict(type=CocoDataset, pipeline=pipeline))
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type='SGD', lr=0.1))
"""


def names_of(steps):
    return [type_name(step.type) for step in steps]


def test_options_of_the_tools_work_with_classes_as_types(tmp_path):
    (tmp_path / 'new.py').write_text(NEW_STYLE)
    cfg = load_config(tmp_path / 'new.py')
    enable_amp(cfg)
    enable_out(cfg, str(tmp_path / 'out'))
    enable_tta(cfg)
    cfg = Config(cfg.to_dict())  # as tools/test.py does
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.test_cfg.type == 'mmoid.ResumableTestLoop'
    load, augment = cfg.test_dataloader.dataset.pipeline
    (flips, (pack,)) = augment.transforms
    assert names_of([load, *flips, pack]) == ['LoadImageFromFile', 'RandomFlip', 'RandomFlip', 'PackDetInputs']
    assert cfg.model.tta_cfg.max_per_img == 50 and type_name(cfg.model.module.type) == 'FasterRCNN'
    cfg = load_config(tmp_path / 'new.py')
    predict_on(cfg, 'store')
    assert names_of(cfg.test_dataloader.dataset.pipeline) == ['LoadImageFromFile', 'PackDetInputs']


def test_an_option_that_is_no_pair_is_an_error_of_one_line(capsys):
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    assert parser.parse_args(['--cfg-options', 'a.b=[1,2]']).cfg_options == {'a.b': [1, 2]}
    for text in ('foo', 'a=[1,(2'):
        with pytest.raises(SystemExit):
            parser.parse_args(['--cfg-options', text])
        line = capsys.readouterr().err.splitlines()[-1]
        assert f'error: --cfg-options {text}: expected key=value pairs' in line
