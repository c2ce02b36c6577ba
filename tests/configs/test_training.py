"""Every config trains: two optimiser steps and a validation, with all its classes, on noise."""

import math

import mmengine.runner.runner
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmoid.engine.training_plan import plan_training
from tests.configs.recipes import RECIPES, read, shortened, shrunk, stages_of, stem, without_weights


@pytest.fixture(autouse=True)
def short_logs(monkeypatch):
    """What would take most of the time here: asking compilers for their versions, and laying out the config."""
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
    assert {'train/loss_cls', 'train/loss_bbox', 'train/loss_rpn_cls'} <= set(losses)
    assert all(math.isfinite(value) for values in losses.values() for value in values)
    for part in ('backbone', 'neck', 'rpn_head', 'roi_head.bbox_head.fc_cls'):
        assert any(name.startswith(part) for name in moved)
    plan = plan_training(cfg, cfg.train_dataloader.dataset.indices)
    assert hub.get_scalar('train/lr').data[0] == pytest.approx(plan.rates)
    stages = stages_of(cfg)
    if stages:
        assert hub.get_scalar('train/stage').data[0].tolist() == [1, 2]
    assert 0 <= hub.get_scalar('val/openimages/mAP').current() <= 1


@pytest.mark.parametrize('path', RECIPES, ids=stem)
def test_every_config_trains_two_steps_and_validates(path, root_of, tmp_path):
    cfg = read(path)
    require_two_steps_and_a_validation(shortened(shrunk(cfg), root_of(cfg.num_classes), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize('path', RECIPES, ids=stem)
def test_every_config_trains_two_steps_and_validates_at_full_width(path, root_of, tmp_path):
    cfg = read(path)
    require_two_steps_and_a_validation(shortened(without_weights(cfg), root_of(cfg.num_classes), tmp_path))
