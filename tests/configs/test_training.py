"""Every config trains: two optimiser steps and a validation, with all its classes, on noise."""

import math

import mmengine.runner.runner
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmoid.engine.schedule.hybrid_schedule import stages_of_config
from mmoid.engine.schedule.training_plan import plan_training
from tests.configs.recipes import (
    RECIPES,
    classes_of,
    one_of_each_network,
    read,
    shortened,
    stem,
    without_weights,
)
from tests.narrow import narrow
from tests.tool_runs import run


@pytest.fixture(autouse=True)
def short_logs(monkeypatch):
    """Most of the time here would go into asking compilers for their versions and printing the config."""
    monkeypatch.setattr(mmengine.runner.runner, 'collect_env', dict)
    monkeypatch.setattr(Config, 'pretty_text', '')


def train(cfg):
    """Runs it; returns the Runner, and the names of the parameters that have moved."""
    cfg.experiment_name = f'test-{id(cfg)}'
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.train()
    after = runner.model.state_dict()
    return runner, [name for name, _ in runner.model.named_parameters() if not torch.equal(before[name], after[name])]


def require_two_steps_and_a_validation(cfg):
    runner, moved = train(cfg)
    hub = runner.message_hub
    assert runner.iter == 2
    losses = {key: buffer.data[0] for key, buffer in hub.log_scalars.items() if 'loss' in key}
    two_stage = 'roi_head' in cfg.model
    assert {'train/loss_cls', 'train/loss_bbox', *(['train/loss_rpn_cls'] if two_stage else [])} <= set(losses)
    assert all(math.isfinite(value) for values in losses.values() for value in values)
    for part in ('backbone', 'neck', *(('rpn_head', 'roi_head.bbox_head.fc_cls') if two_stage else ('bbox_head',))):
        assert any(name.startswith(part) for name in moved)
    head = (runner.model.roi_head if two_stage else runner.model).bbox_head
    assert len(head.label_names) == head.loss_cls.num_classes == head.num_classes and head.ancestors.any()
    if two_stage:
        sampler = runner.model.roi_head.bbox_sampler
        assert sampler.num_classes == head.num_classes and sampler.hierarchy == head.hierarchy
    plan = plan_training(cfg, cfg.train_dataloader.dataset.indices)
    assert hub.get_scalar('train/lr').data[0] == pytest.approx(plan.lr)
    if stages_of_config(cfg):
        assert hub.get_scalar('train/stage').data[0].tolist() == [1, 2]
    assert 0 <= hub.get_scalar('val/openimages/mAP').current() <= 1


@pytest.mark.parametrize('path', RECIPES, ids=stem)
def test_every_config_trains_two_steps_and_validates(path, root_of, tmp_path):
    cfg = read(path)
    narrow(cfg.model)
    require_two_steps_and_a_validation(shortened(cfg, root_of(classes_of(cfg)), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize('path', one_of_each_network(), ids=stem)
def test_every_network_trains_two_steps_and_validates_at_full_width(path, root_of, tmp_path):
    cfg = read(path)
    require_two_steps_and_a_validation(shortened(without_weights(cfg), root_of(classes_of(cfg)), tmp_path))


@pytest.mark.slow
def test_two_processes_train_a_config_with_shared_batch_statistics(root_of, tmp_path):
    """Without CUDA there are none to share (mmoid/engine/launch.py), and the config trains as it is."""
    path = 'configs/openimages/faster-rcnn_r50_fpn_syncbn_8xb4-1x_openimages-mini.py'
    options = {
        'model.backbone.init_cfg': 'None',
        'train_cfg.max_epochs': '1',
        'train_dataloader.dataset.indices': '16',
        'val_dataloader.dataset.indices': '2',
        'train_dataloader.dataset.pipeline.2.scale': '(133,80)',
        'val_dataloader.dataset.pipeline.1.scale': '(133,80)',
        'default_hooks.logger.interval': '1',
    }
    given = [f'{key}={value}' for key, value in options.items()]
    command = ('bash', 'tools/dist_train.sh', path, 2, '--work-dir', tmp_path, '--cfg-options', *given)
    done = run(*command, MMOID_MINI_ROOT=str(root_of(500)))
    assert 'Epoch(train) [1][2/2]' in done.stdout and 'openimages/mAP' in done.stdout
