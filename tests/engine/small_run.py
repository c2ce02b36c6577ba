"""A real training in miniature: mmengine's Runner, our data set, hooks and launcher, a model of two weights.

    python small_run.py OPTIONS_JSON            (or under torchrun)

Writes every iteration of every rank to ``<work_dir>/rank<r>.jsonl``: epoch, learning rate, stage, indices that the
loader handed out.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, MODELS, TRANSFORMS
from mmengine.runner import Runner
from torch import nn

from mmoid.engine import prepare_launch

STAGES = [
    dict(name='natural', epochs=2, param_scheduler=dict(type='MultiStepLR', milestones=[1], gamma=0.1)),
    dict(
        name='soft balance',
        epochs=3,
        sampler=dict(type='SoftBalanceClassAwareSampler', balance=0.7),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.25, by_epoch=False, begin=0, end=3),
            dict(type='MultiStepLR', milestones=[2], gamma=0.1),
        ],
    ),
]


@TRANSFORMS.register_module()
class KeepIndex:
    def __call__(self, item):
        return dict(sample_idx=item['sample_idx'])


@MODELS.register_module()
class TwoWeights(BaseModel):
    """Its input is what the loader gives, its loss depends on the indices, so that wrong ones change the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0]))

    def forward(self, sample_idx, mode='tensor', **kwargs):
        x = torch.tensor(sample_idx, dtype=torch.float32)
        return dict(loss=((self.weight[0] * x / 50 + self.weight[1] - 1) ** 2).mean())


@HOOKS.register_module()
class Recorder(Hook):
    """Writes what happened; kills its own process at ``kill_at`` (epoch, iteration in it) on rank ``kill_rank``."""

    priority = 'VERY_LOW'

    def __init__(self, kill_at=None, kill_rank=0) -> None:
        self.kill_at, self.kill_rank = kill_at, kill_rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        line = dict(
            epoch=runner.epoch,
            batch=batch_idx,
            lr=runner.optim_wrapper.get_lr()['lr'][0],
            stage=int(runner.message_hub.get_scalar('train/stage').current()),
            indices=[int(i) for i in data_batch['sample_idx']],
        )
        with open(Path(runner.work_dir) / f'rank{get_rank()}.jsonl', 'a') as stream:
            stream.write(json.dumps(line) + '\n')
        if [runner.epoch, batch_idx] == self.kill_at and get_rank() == self.kill_rank:
            os.kill(os.getpid(), signal.SIGKILL)


def config(data_root, work_dir, **options) -> Config:
    """Everything but the given options stays as an ordinary mmdet run has it."""
    stages = options.pop('stages', STAGES)
    workers = options.pop('num_workers', 0)
    cfg = Config(
        dict(
            default_scope='mmdet',
            custom_imports=dict(imports=['mmoid.registry']),
            work_dir=str(work_dir),
            launcher=options.pop('launcher', 'none'),
            model=dict(type='TwoWeights'),
            train_dataloader=dict(
                batch_size=4,
                num_workers=workers,
                persistent_workers=options.pop('persistent_workers', False),
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=dict(
                    type='OpenImagesHierarchyDataset',
                    ann_file=f'{data_root}/train',
                    filter_cfg=dict(filter_empty_gt=True),
                    pipeline=[dict(type='KeepIndex')],
                ),
            ),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=sum(stage['epochs'] for stage in stages)),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
            custom_hooks=[
                dict(type='HybridSchedule', stages=stages),
                dict(type='Recorder', kill_at=options.pop('kill_at', None), kill_rank=options.pop('kill_rank', 0)),
            ],
            default_hooks=dict(logger=dict(type='LoggerHook', interval=5)),
            randomness=dict(seed=0),
            log_level='WARNING',
            experiment_name='small',
        )
    )
    cfg.merge_from_dict(options)
    return cfg


def main() -> None:
    options = json.loads(sys.argv[1])
    cfg = config(**options)
    import mmoid.registry  # noqa: F401  (Config.fromfile would do it)

    prepare_launch(cfg)
    Runner.from_cfg(cfg).train()


if __name__ == '__main__':
    main()
