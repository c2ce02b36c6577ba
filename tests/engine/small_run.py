"""A real training in miniature that draws random numbers wherever a detector does, and can be killed anywhere.

Images are read, resized, flipped and distorted at random; the model takes random places (as RoI sampling does) and
drops out. Every rank writes what it sees to ``<work_dir>/rank<r>.jsonl``.
"""

from __future__ import annotations

import json
import os
import signal
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.losses import MSELoss
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, METRICS, MODELS, DefaultScope
from torch import nn

from mmoid.utils import atomic

STAGES = [
    dict(
        name='natural',
        epochs=2,
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.25, by_epoch=False, begin=0, end=8),
            dict(type='MultiStepLR', milestones=[1], gamma=0.1),
        ],
    ),
    dict(
        name='soft balance',
        epochs=2,
        sampler=dict(type='SoftBalanceClassAwareSampler', balance=0.7),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.25, by_epoch=False, begin=0, end=3),
            dict(type='MultiStepLR', milestones=[1], gamma=0.1),
        ],
    ),
]
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=(48, 48), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]


class Interrupted(Exception):
    """Ends a run in the middle by an exception."""


@MODELS.register_module()
class RandomPlaces(BaseModel):
    """A convolution, normalisation, dropout, and a loss at random places."""

    def __init__(self, places: int = 8, norm: str = 'BN') -> None:
        super().__init__(data_preprocessor=DetDataPreprocessor(pad_size_divisor=16))
        self.places = places
        norms = dict(BN=nn.BatchNorm2d, SyncBN=nn.SyncBatchNorm)
        self.features = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), norms[norm](4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 1)
        self.loss = MSELoss()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        features = self.features(inputs / 255).flatten(2)
        chosen = features[:, :, torch.randperm(features.shape[2])[: self.places]]
        scores = self.head(chosen.mean(dim=2)).squeeze(1)
        if mode == 'predict':
            return [dict(score=float(score)) for score in scores]
        labels = torch.stack([sample.gt_instances.labels.float().mean() for sample in data_samples])
        return dict(loss=self.loss(scores, labels / 10))


@METRICS.register_module()
class MeanScore(BaseMetric):
    default_prefix = 'mean'

    def process(self, data_batch, data_samples):
        self.results += [sample['score'] for sample in data_samples]

    def compute_metrics(self, results):
        return dict(score=sum(results) / len(results))


@HOOKS.register_module()
class RunRecorder(Hook):
    """Writes what a rank sees, and ends it: by SIGKILL to itself, or by :class:`Interrupted`.

    Args:
        end: ``dict(at='iteration', number=n)`` when the n-th iteration of the run (from 0) has its batch;
            ``dict(at='validation', number=n)`` before that after epoch n; ``dict(at='writing' | 'naming' | 'pointing',
            number=n)`` while the n-th checkpoint of this process (from 0) is half written, has not got its name, is
            not yet noted as the last one.
        rank: Which one ends.
        kill: By SIGKILL.
        pause: Seconds to add to each iteration.
    """

    priority = 'LOWEST'

    def __init__(self, end=None, rank=0, kill=False, pause=0.0) -> None:
        self.end, self.rank, self.kill, self.pause = end or dict(at=None), rank, kill, pause

    def before_run(self, runner):
        if self.end['at'] in ('writing', 'naming', 'pointing'):
            self.flush, self.written = atomic.flush, -1
            atomic.flush = self.end_in_flush

    def end_in_flush(self, path):
        """Replaces ``atomic.flush``, which is called for each checkpoint, and for its folder when it has its name."""
        self.written += path.suffix == '.pth'
        if self.written == self.end['number'] and (path.suffix == '.pth') == (self.end['at'] != 'pointing'):
            if self.end['at'] == 'writing':
                os.truncate(path, path.stat().st_size // 2)
            atomic.flush = self.flush
            self.stop()
        self.flush(path)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        time.sleep(self.pause)
        settings = runner.optim_wrapper.param_groups[0]
        line = dict(
            iteration=runner.iter,
            epoch=runner.epoch,
            batch=batch_idx,
            lr=settings['lr'],
            momentum=settings['momentum'],
            stage=int(runner.message_hub.get_scalar('train/stage').current()),
            images=[sample.img_id for sample in data_batch['data_samples']],
            shapes=[list(image.shape) for image in data_batch['inputs']],
            pixels=[int(image.long().sum()) for image in data_batch['inputs']],
            weights=zlib.crc32(b''.join(p.detach().numpy().tobytes() for p in runner.model.parameters())),
        )
        with open(Path(runner.work_dir) / f'rank{get_rank()}.jsonl', 'a') as stream:
            stream.write(json.dumps(line) + '\n')
        if self.end['at'] == 'iteration' and runner.iter == self.end['number']:
            self.stop()

    def before_val_epoch(self, runner):
        with open(Path(runner.work_dir) / f'rank{get_rank()}.jsonl', 'a') as stream:
            stream.write(json.dumps(dict(validation=runner.epoch)) + '\n')
        if self.end['at'] == 'validation' and runner.epoch == self.end['number']:
            self.stop()

    def stop(self):
        if get_rank() == self.rank:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Interrupted('the test ends this rank')


def config(data_root, work_dir, **options) -> Config:
    """The run; ``options`` override it by dotted keys."""
    stages = options.pop('stages', STAGES)
    end = {key: options.pop(key) for key in ('end', 'rank', 'kill', 'pause') if key in options}
    workers = options.pop('num_workers', 0)
    dataset = dict(type='OpenImagesHierarchyDataset', ann_file=f'{data_root}/train', pipeline=PIPELINE)
    cfg = Config(
        dict(
            default_scope='mmdet',
            custom_imports=dict(imports=['mmoid.registry']),
            work_dir=str(work_dir),
            launcher=options.pop('launcher', 'none'),
            model=dict(type='RandomPlaces'),
            train_dataloader=dict(
                batch_size=options.pop('batch_size', 4),
                num_workers=workers,
                persistent_workers=options.pop('persistent', True) and workers > 0,
                sampler=dict(type='DefaultSampler', shuffle=True),
                batch_sampler=dict(type='AspectRatioBatchSampler'),
                dataset=dict(dataset, filter_cfg=dict(filter_empty_gt=True)),
            ),
            val_dataloader=dict(
                batch_size=2,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(dataset, ann_file=f'{data_root}/validation', test_mode=True, indices=2),
            ),
            val_evaluator=dict(type='MeanScore'),
            val_cfg=dict(type='ValLoop'),
            train_cfg=dict(type='ResumableEpochTrainLoop', max_epochs=sum(stage['epochs'] for stage in stages)),
            optim_wrapper=dict(
                optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-3), clip_grad=dict(max_norm=1.0)
            ),
            custom_hooks=[
                dict(type='HybridSchedule', stages=stages),
                *options.pop('hooks', []),
                dict(type='RunRecorder', **end),
            ],
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=2),
                checkpoint=dict(
                    type='ResumableCheckpointHook', iter_interval=2, save_best='mean/score', rule='greater'
                ),
            ),
            randomness=dict(seed=0),
            log_level='WARNING',
            experiment_name=f'resume-{len(DefaultScope._instance_dict)}',
        )
    )
    cfg.merge_from_dict(options)
    return cfg


@contextmanager
def plain_config_text() -> Iterator[None]:
    """mmengine formats the text of the config for each checkpoint, which takes longer than all else here."""
    with mock.patch.object(Config, 'pretty_text', property(repr)):
        yield


if __name__ == 'small_run':  # imported by a config, in a process that tools/train.py started
    plain_config_text().__enter__()
