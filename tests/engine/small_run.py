"""A real training in miniature that draws random numbers wherever a detector does, and can be killed anywhere.

Images are read, resized, flipped and distorted at random; the model takes random places (as RoI sampling does) and
drops out. Every rank writes what it sees to ``<work_dir>/rank<r>.jsonl``.
"""

import gc
import json
import os
import signal
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import psutil
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

WARM_UP = dict(type='LinearLR', start_factor=0.25, by_epoch=False, begin=0, end=3)
STEP = dict(type='MultiStepLR', milestones=[1], gamma=0.1)
BALANCED = dict(type='SoftBalanceClassAwareSampler', balance=0.7)
STAGES = [
    dict(name='natural', epochs=2, param_scheduler=[dict(WARM_UP, end=8), STEP]),
    dict(name='soft balance', epochs=2, sampler=BALANCED, param_scheduler=[WARM_UP, STEP]),
]
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=(48, 48), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]

BATCH = '/dev/shm/torch_'
"""Of shared memory in which a batch is on its way from a worker; how many there are is a matter of the moment."""


class Interrupted(Exception):
    """Ends a run in the middle by an exception."""


@MODELS.register_module()
class RandomPlaces(BaseModel):
    """A convolution, normalisation, dropout, and a loss at random places."""

    def __init__(self, norm: str = 'BN') -> None:
        super().__init__(data_preprocessor=DetDataPreprocessor(pad_size_divisor=16))
        norms = dict(BN=nn.BatchNorm2d, SyncBN=nn.SyncBatchNorm)
        self.features = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), norms[norm](4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 1)
        self.loss = MSELoss()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        features = self.features(inputs / 255).flatten(2)
        chosen = features[:, :, torch.randperm(features.shape[2])[:8]]
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
        end: ``dict(at=..., number=n)``: at ``'iteration'`` n (from 0), when it has its batch; at the ``'validation'``
            after epoch n; while the n-th checkpoint of this process (from 0) is half written (``'writing'``), has not
            got its name (``'naming'``), is not yet noted as the last one (``'pointing'``).
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
        self.write(runner, line)
        if self.end == dict(at='iteration', number=runner.iter):
            self.stop()

    def before_val_epoch(self, runner):
        self.write(runner, dict(validation=runner.epoch))
        if self.end == dict(at='validation', number=runner.epoch):
            self.stop()

    def write(self, runner, line):
        with open(Path(runner.work_dir) / f'rank{get_rank()}.jsonl', 'a') as stream:
            stream.write(json.dumps(line) + '\n')

    def stop(self):
        if get_rank() == self.rank:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Interrupted('the test ends this rank')


@HOOKS.register_module()
class Footprint(Hook):
    """A line for each epoch in ``<work_dir>/footprint<rank>.jsonl``: of the rank first, then of its workers.

    Taken in the last iteration of the epoch, when workers are there whether they persist or not.
    """

    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx + 1 < len(runner.train_dataloader):
            return
        gc.collect()
        pids = [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]
        files = [open_files(pid) for pid in pids]
        batches = [sum(name.startswith(BATCH) for name in names) for names in files]
        line = dict(
            stage=int(runner.message_hub.get_scalar('train/stage').current()),
            private=[private_memory(pid) for pid in pids],
            files=[len(names) - number for names, number in zip(files, batches)],
            batches=batches,
        )
        with open(Path(runner.work_dir) / f'footprint{get_rank()}.jsonl', 'a') as stream:
            stream.write(json.dumps(line) + '\n')


def private_memory(pid):
    """Bytes that nothing but this process has made: pages of mapped files, which the system may drop, do not count."""
    lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    (size,) = (line.split()[1] for line in lines if line.startswith('Anonymous:'))
    return int(size) * 1024


def open_files(pid):
    """What the file descriptors of a process lead to."""
    names = []
    for number in os.listdir(f'/proc/{pid}/fd'):
        with suppress(FileNotFoundError):  # the one that reads the folder
            names.append(os.readlink(f'/proc/{pid}/fd/{number}'))
    return names


def config(data_root, work_dir, **options) -> Config:
    """The run; ``options`` override it by dotted keys."""
    stages = options.pop('stages', STAGES)
    end = {key: options.pop(key) for key in ('end', 'rank', 'kill', 'pause') if key in options}
    workers, hooks = options.pop('num_workers', 0), options.pop('hooks', [])
    optimizer = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-3)
    dataset = dict(type='OpenImagesHierarchyDataset', ann_file=f'{data_root}/train', pipeline=PIPELINE)
    cfg = Config(
        dict(
            default_scope='mmdet',
            custom_imports=dict(imports=['mmoid.registry']),
            work_dir=str(work_dir),
            launcher='none',
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
            optim_wrapper=dict(optimizer=optimizer, clip_grad=dict(max_norm=1.0)),
            custom_hooks=[dict(type='HybridSchedule', stages=stages), *hooks, dict(type='RunRecorder', **end)],
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
