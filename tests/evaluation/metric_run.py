"""A small training and validation with the detector of prediction_run.

python metric_run.py DATA_ROOT WORK_DIR LAUNCHER            (or under torchrun)
"""

from __future__ import annotations

import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

import mmoid.registry  # noqa: F401  (Config.fromfile would do it)
from mmoid.engine.launch import prepare_launch
from tests.evaluation import prediction_run


def config(data_root, work_dir, **options) -> Config:
    """One iteration of training, then validation; ``options`` override it by dotted keys."""
    cfg = prediction_run.config(data_root, work_dir)
    cfg.custom_imports = None
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


if __name__ == '__main__':
    cfg = config(Path(sys.argv[1]), Path(sys.argv[2]), launcher=sys.argv[3])
    prepare_launch(cfg)
    Runner.from_cfg(cfg).train()
