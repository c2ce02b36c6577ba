"""A small training and validation whose model finds moved and relabelled annotations.

    python metric_run.py DATA_ROOT WORK_DIR            (or under torchrun)

The ImageID seeds the changes, so that every rank finds the same.
"""

from __future__ import annotations

import sys
import zlib

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import nn

import mmoid.registry  # noqa: F401  (Config.fromfile would do it)
from mmoid.engine import prepare_launch

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape')),
]


@MODELS.register_module()
class HalfBlindModel(BaseModel):
    """Finds most boxes, a little moved, some as another class. Learns nothing."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'loss':
            return dict(loss=self.weight.sum() ** 2)
        return [self.find(sample) for sample in data_samples]

    def find(self, sample: DetDataSample) -> DetDataSample:
        rng = np.random.default_rng(zlib.crc32(sample.img_id.encode()))
        truth = sample.gt_instances
        found = np.flatnonzero(rng.random(len(truth)) < 0.8)
        moved = truth.bboxes.tensor if hasattr(truth.bboxes, 'tensor') else truth.bboxes
        labels = truth.labels.numpy()[found]
        labels = np.where(rng.random(len(found)) < 0.7, labels, rng.integers(self.num_classes, size=len(found)))
        sample.pred_instances = InstanceData(
            bboxes=moved[found] + torch.from_numpy(rng.normal(0, 2, (len(found), 4))).float(),
            labels=torch.from_numpy(labels),
            scores=torch.from_numpy(rng.random(len(found))).float(),
        )
        return sample


def config(data_root, work_dir, num_classes, **options) -> Config:
    """One iteration of training, then validation; ``options`` override it by dotted keys."""
    dataset = dict(type='OpenImagesHierarchyDataset', ann_file=f'{data_root}/train', pipeline=PIPELINE)
    cfg = Config(
        dict(
            default_scope='mmdet',
            custom_imports=dict(imports=['mmoid.registry']),
            work_dir=str(work_dir),
            launcher=options.pop('launcher', 'none'),
            model=dict(type='HalfBlindModel', num_classes=num_classes),
            train_dataloader=dict(
                batch_size=2, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dict(dataset, indices=4)
            ),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            val_dataloader=dict(
                batch_size=2,
                sampler=dict(type='DefaultSampler', shuffle=False),
                # 11 images: with two ranks, one of them is tested twice.
                dataset=dict(dataset, ann_file=f'{data_root}/validation', test_mode=True, indices=11),
            ),
            val_evaluator=dict(
                type='OpenImagesChallengeMetric',
                ann_file=f'{data_root}/validation',
                train_ann_file=f'{data_root}/train',
                outfile_prefix=f'{work_dir}/val',
            ),
            val_cfg=dict(type='ValLoop'),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', save_best='auto')),
            randomness=dict(seed=0),
            log_level='INFO',
            experiment_name='metric',
        )
    )
    cfg.merge_from_dict(options)
    return cfg


def main() -> None:
    data_root, work_dir, num_classes, launcher = sys.argv[1:]
    cfg = config(data_root, work_dir, int(num_classes), launcher=launcher)
    prepare_launch(cfg)
    Runner.from_cfg(cfg).train()


if __name__ == '__main__':
    main()
