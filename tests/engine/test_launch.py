"""What the tools add to a Runner."""

import json

import pytest
import torch

import mmoid.registry  # noqa: F401
from mmoid.engine import launch
from mmoid.engine.launch import build_runner
from tests.evaluation import prediction_run


@pytest.mark.parametrize('rank', [0, 1])
def test_rank_0_alone_writes_the_figures_of_a_test(tiny_data, tmp_path, monkeypatch, rank):
    """mmengine's LoggerHook writes them from every rank, into one file."""
    cfg = prediction_run.config(tiny_data, tmp_path)
    cfg.custom_imports, cfg.launcher, cfg.load_from = None, 'none', str(tmp_path / 'model.pth')
    torch.save(dict(state_dict=dict(weight=torch.tensor(3.0))), cfg.load_from)
    monkeypatch.setattr(launch, 'is_main_process', lambda: rank == 0)
    figures = build_runner(cfg).test()
    assert 'openimages/mAP' in figures
    written = [json.loads(path.read_text()) for path in tmp_path.glob('*/2*.json')]
    assert [one['openimages/mAP'] for one in written] == [figures['openimages/mAP']] * (rank == 0)
