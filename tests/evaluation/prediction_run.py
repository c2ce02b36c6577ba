"""A small test run: mmengine's Runner, our data set, loop and metrics, and a detector without weights.

Its detections depend on the pixels of the whole batch, as those of a padded batch do. It writes the images that it
tests to ``<work_dir>/seen.txt``, and stops to wait when there are ``SEE_NO_MORE_THAN``.
"""

import os
import time
from pathlib import Path

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import nn

from mmoid.openimages.store.annotation_store import AnnotationStore

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]


@MODELS.register_module()
class PixelDetector(BaseModel):
    """Finds each annotated box, a little moved, and up to 40 false ones."""

    def __init__(self, ann_file: str, seen: str, scale: float = 1.0) -> None:
        super().__init__(data_preprocessor=DetDataPreprocessor())
        self.weight = nn.Parameter(torch.ones(()))  # DDP wants one
        self.store = AnnotationStore(ann_file)
        self.image = {image_id: k for k, image_id in enumerate(self.store.image_ids())}
        self.seen, self.scale = seen, scale

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'loss':
            return dict(loss=self.weight**2)
        for image, sample in zip(inputs, data_samples):
            while len(seen(self.seen)) >= int(os.environ.get('SEE_NO_MORE_THAN', 10**9)):
                time.sleep(0.01)
            with open(self.seen, 'a') as stream:  # one write: several processes write at the same time
                stream.write(f'{sample.img_id}\n')
            rows = self.store.boxes_of_image(self.image[sample.img_id])
            true, label = (torch.from_numpy(column[rows].copy()) for column in (self.store.box, self.store.box_label))
            count = len(true) + int(image.sum()) % 40
            values = (image.double() * 7 + inputs.double().mean() * self.weight).flatten()[: 6 * count] % 1
            x, y, width, height, any_label, score = values.reshape(6, count)
            box = torch.stack([x, y, x + width, y + height], dim=1) / 2
            box[: len(true)] = true + 0.1 * (box[: len(true)] - 0.5)
            labels = (any_label * self.store.num_classes).long()
            labels[: len(true)] = label
            high, wide = sample.ori_shape
            order = score.argsort(descending=True)
            sample.pred_instances = InstanceData(
                bboxes=(box * torch.tensor([wide, high, wide, high]))[order].float(),
                scores=(score * self.scale)[order].float(),
                labels=labels[order],
            )
        return data_samples


def seen(file: str | Path) -> list[str]:
    """Images in the order in which they were tested, with repetitions."""
    return Path(file).read_text().split() if Path(file).exists() else []


def config(data_root: Path, work_dir: Path, **model) -> Config:
    """Tests the 48 training images of the tiny data in batches of two."""
    ann_file = str(data_root / 'train')
    return Config(
        dict(
            default_scope='mmdet',
            custom_imports=dict(imports=['mmoid.registry', 'prediction_run']),
            work_dir=str(work_dir),
            model=dict(type='PixelDetector', ann_file=ann_file, seen=str(work_dir / 'seen.txt'), **model),
            test_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(type='OpenImagesHierarchyDataset', ann_file=ann_file, test_mode=True, pipeline=PIPELINE),
            ),
            test_evaluator=[dict(type='OpenImagesChallengeMetric', ann_file=ann_file)],
            test_cfg=dict(type='TestLoop'),
            default_hooks=dict(logger=dict(type='LoggerHook', interval=5)),
            randomness=dict(seed=0),
            experiment_name=f'test{os.getpid()}',
        )
    )
