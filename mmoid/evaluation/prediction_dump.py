"""PredictionDump: writes what a model finds into a PredictionStore."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.registry import METRICS
from mmengine.dist import barrier, get_dist_info, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmoid.evaluation.detections import ImageDetections, image_detections
from mmoid.openimages.predictions.shards import Bound, PredictionShards, join_run, open_shards
from mmoid.openimages.store.arrow_folder import require_replaceable

RUN = 'a test run'
SHARDS_PER_PROCESS = 8
"""At least, where there are so many images."""


@METRICS.register_module()
class PredictionDump(BaseMetric):
    """No metric: writes all predictions into a PredictionStore (``tools/test.py --out``). Needs ResumableTestLoop.

    Every process writes shards of its images into ``<out>.parts`` while they are tested; the first one puts them
    together on disk at the end. Predictions are never gathered in memory, and those of a killed run are not lost.

    Args:
        out: Folder of the :class:`mmoid.openimages.predictions.prediction_store.PredictionStore`. One that is there is replaced.
        images_per_shard: What each process of a killed run loses at most.
        restart: Throw the shards of a killed run away, whatever they are of.

    Raises:
        AnnotationError: At the start: ``out`` exists and is something else.
    """

    default_prefix = 'predictions'

    def __init__(self, out: str, images_per_shard: int = 64, restart: bool = False) -> None:
        require_replaceable(out, overwrite=True)
        if images_per_shard < 1:
            raise ValueError(f'PredictionDump.images_per_shard must be at least 1, got {images_per_shard}')
        super().__init__()
        self.out = out
        self.images_per_shard = images_per_shard
        self.restart = restart
        self.shards: PredictionShards | None = None

    def open(self, plan: Mapping[str, Any], num_images: int, batch_size: int) -> list[int]:
        """Begins a run or goes on with a killed one; for all processes together.

        Args:
            plan: JSON values on which the predictions depend. A run goes on only with the same.
            num_images: N of the data set.
            batch_size: Images of a batch; no batch lies in two shards.

        Returns:
            Indices of the images that this process is to test, in the order in which it must.

        Raises:
            AnnotationError: The shards that are there belong to another run.
        """
        rank, world_size = get_dist_info()
        # Some for each process, so that all are done at the same time; whole batches, the same ones in every run.
        length = min(self.images_per_shard, num_images // (SHARDS_PER_PROCESS * world_size))
        length = batch_size * max(1, -(-length // batch_size))
        if is_main_process():
            open_shards(
                self.out,
                {**plan, 'batch_size': batch_size, 'classes': list(self._label_names())},
                run=RUN,
                num_images=num_images,
                images_per_shard=length,
                overwrite=True,
                restart=self.restart,
            )
        barrier()
        self.shards = join_run(self.out, num_images, RUN)
        done = self.shards.done()
        barrier()  # nobody writes before everybody has looked
        self._done = done[rank::world_size]
        todo = sorted(set(self.shards.bounds) - set(done))[rank::world_size]
        self._todo = deque(todo)
        self._found: list[ImageDetections] = []
        count = sum(last - first for first, last in done)
        if count:
            print_log(f'{self.shards.folder}: {count} of {num_images} images were tested before', logger='current')
        return [image for first, last in todo for image in range(first, last)]

    def earlier(self) -> Iterator[tuple[Bound, list[dict[str, Any]]]]:
        """What an earlier run has found, in the form that a metric is given; each process has its part of the shards.

        Boxes are those of an image of one pixel, so that they are what they were as fractions, to the last bit.
        """
        assert self.shards is not None
        for bound in self._done:
            store = self.shards.read(bound)
            slices = map(slice, [0, *store.detection_stop], store.detection_stop)
            yield (
                bound,
                [
                    dict(
                        img_id=image_id,
                        ori_shape=(1, 1),
                        pred_instances=dict(
                            bboxes=torch.from_numpy(store.box[rows].copy()),
                            scores=torch.from_numpy(store.score[rows].copy()),
                            labels=torch.from_numpy(store.label[rows].astype(np.int64)),
                        ),
                    )
                    for image_id, rows in zip(store.image_ids(), slices)
                ],
            )

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps the detections of a batch; ``data_samples`` need ``img_id``, ``ori_shape``, ``pred_instances``."""
        if self.shards is None:
            raise ValueError("PredictionDump needs test_cfg=dict(type='mmoid.ResumableTestLoop')")
        self._found += image_detections(data_samples)
        first, last = self._todo[0]
        if len(self._found) == last - first:
            self._write(self._todo.popleft(), self._found)
            self._found = []

    def evaluate(self, size: int) -> dict:
        """Puts the shards together, once all processes are done."""
        assert self.shards is not None
        if self._todo:
            raise ValueError(f'PredictionDump: images {self._todo[0][0]} and up were not tested; the loop ended early')
        barrier()
        if is_main_process():
            count = self.shards.join(self._label_names(), self.dataset_meta['classes'], overwrite=True)
            print_log(f'Wrote {count} detections on {size} images to {self.out}', logger='current')
        barrier()
        self.shards = None
        return {}

    def compute_metrics(self, results: list) -> dict:
        """There are none."""
        return {}

    def _label_names(self) -> Sequence[str]:
        return self.dataset_meta.get('label_names', self.dataset_meta['classes'])

    def _write(self, bound: Bound, images: Sequence[ImageDetections]) -> None:
        assert self.shards is not None
        self.shards.write(
            bound,
            image_ids=[image.image_id for image in images],
            detections_per_image=np.array([len(image.label) for image in images]),
            label=np.concatenate([image.label for image in images]),
            score=np.concatenate([image.score for image in images]),
            box=np.concatenate([image.box for image in images]),
            label_names=self._label_names(),
            class_names=self.dataset_meta['classes'],
        )
