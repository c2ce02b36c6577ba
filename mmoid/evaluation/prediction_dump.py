"""PredictionDump: writes the detections of a model into a PredictionStore."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmdet.registry import METRICS
from mmengine.dist import barrier, get_dist_info, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions.ancestors import add_ancestors
from mmoid.openimages.predictions.shards import Bound, PredictionShards, join_run, open_shards
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.arrow_folder import require_replaceable

RUN = 'a test run'
SHARDS_PER_PROCESS = 8
"""At least, if there are enough images."""


@dataclass(frozen=True, eq=False)
class ImageDetections:
    """Detections of one image as arrays.

    Attributes:
        image_id: ImageID.
        label: (D,) class indices.
        score: (D,) float64.
        box: (D, 4) float64 xmin, ymin, xmax, ymax as fractions of the image size.
    """

    image_id: str
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray


def image_detections(data_samples: Sequence[dict[str, Any]]) -> Iterator[ImageDetections]:
    """Converts the samples that mmengine gives to metrics; boxes become fractions of the original image."""
    for sample in data_samples:
        height, width = sample['ori_shape'][:2]
        instances = sample['pred_instances']
        yield ImageDetections(
            image_id=str(sample['img_id']),
            label=instances['labels'].cpu().numpy(),
            score=instances['scores'].detach().to(torch.float64).cpu().numpy(),
            box=instances['bboxes'].detach().cpu().numpy().astype(np.float64) / (width, height, width, height),
        )


@METRICS.register_module()
class PredictionDump(BaseMetric):
    """Writes all predictions into a PredictionStore (``tools/test.py --out``). Needs ResumableTestLoop. No metric.

    Every process writes shards of its images into ``<out>.parts`` during the test. The first process joins them on
    disk at the end. Predictions are never gathered in memory, and those of a killed run are kept.

    Args:
        out: Folder of the :class:`mmoid.openimages.predictions.prediction_store.PredictionStore`. Replaces predictions
            that are there.
        images_per_shard: Number of images that each process of a killed run loses at most.
        restart: Remove the shards of a killed run.
        ancestors_of: Store whose hierarchy gives the ancestors that are added to the detections
            (:func:`mmoid.openimages.predictions.ancestors.add_ancestors`), as an OpenImagesChallengeMetric with
            ``expand_detections=True`` does: what it evaluates is what is written. None: detections as predicted.
        ancestor_nms: IoU threshold of the NMS after that; None: no NMS.

    Raises:
        FileExistsError: ``out`` exists and is something else.
        AnnotationError: ``ancestors_of`` is not a store.
        ValueError: ``images_per_shard`` below 1.
    """

    default_prefix = 'predictions'

    def __init__(
        self,
        out: str,
        images_per_shard: int = 64,
        restart: bool = False,
        ancestors_of: str | None = None,
        ancestor_nms: float | None = 0.5,
    ) -> None:
        require_replaceable(out, overwrite=True)
        if images_per_shard < 1:
            raise ValueError(f'PredictionDump.images_per_shard must be at least 1, got {images_per_shard}')
        super().__init__()
        self.out = out
        self.images_per_shard = images_per_shard
        self.restart = restart
        self.store = None if ancestors_of is None else AnnotationStore(ancestors_of)
        self.ancestor_nms = ancestor_nms
        self.shards: PredictionShards | None = None

    def open(self, plan: Mapping[str, Any], num_images: int, batch_size: int) -> list[int]:
        """Starts a run or resumes a killed one. All processes call it together.

        Args:
            plan: JSON values that the predictions depend on. A run is resumed only with the same plan.
            num_images: N of the data set.
            batch_size: Images of a batch. No batch lies in two shards.

        Returns:
            Indices of the images that this process must test, in this order.

        Raises:
            AnnotationError: There are shards of another run.
        """
        rank, world_size = get_dist_info()
        # Enough shards that all processes finish at the same time. Whole batches, so every run has the same batches.
        length = min(self.images_per_shard, num_images // (SHARDS_PER_PROCESS * world_size))
        length = batch_size * max(1, -(-length // batch_size))
        if is_main_process():
            ancestors = None if self.store is None else [self.store.metadata['hierarchy'], self.ancestor_nms]
            settings = {'batch_size': batch_size, 'classes': list(self._label_names()), 'ancestors': ancestors}
            open_shards(
                self.out,
                {**plan, **settings},
                run=RUN,
                num_images=num_images,
                images_per_shard=length,
                overwrite=True,
                restart=self.restart,
            )
        barrier()
        self.shards = join_run(self.out, num_images, RUN)
        done = self.shards.done()
        barrier()  # no process writes before all have looked
        self._done = done[rank::world_size]
        todo = sorted(set(self.shards.bounds) - set(done))[rank::world_size]
        self._todo = deque(todo)
        self._found: list[ImageDetections] = []
        if self.store is not None:
            tree = self.store.metadata['hierarchy']
            self._hierarchy = ClassHierarchy(tree, self._label_names(), str(self.store.path))
        count = sum(last - first for first, last in done)
        if count:
            print_log(f'{self.shards.folder}: {count} of {num_images} images were tested before', logger='current')
        return [image for first, last in todo for image in range(first, last)]

    def earlier(self) -> Iterator[tuple[Bound, list[dict[str, Any]]]]:
        """Yields finished shards as the samples that a metric gets. Each process has its part of the shards.

        Boxes are those of an image of 1 x 1 pixel, so that the fractions stay the same to the last bit.
        """
        assert self.shards is not None
        for bound in self._done:
            store = self.shards.read(bound)
            slices = map(slice, [0, *store.detection_stop], store.detection_stop)
            samples = []
            for image_id, rows in zip(store.image_ids(), slices):
                instances = dict(
                    bboxes=torch.from_numpy(store.box[rows].copy()),
                    scores=torch.from_numpy(store.score[rows].copy()),
                    labels=torch.from_numpy(store.label[rows].astype(np.int64)),
                )
                samples.append(dict(img_id=image_id, ori_shape=(1, 1), pred_instances=instances))
            yield bound, samples

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps the detections of a batch and writes a shard when it is complete."""
        if self.shards is None:
            raise ValueError("PredictionDump needs test_cfg=dict(type='mmoid.ResumableTestLoop')")
        self._found += map(self._with_ancestors, image_detections(data_samples))
        first, last = self._todo[0]
        if len(self._found) == last - first:
            images, self._found = self._found, []
            self.shards.write(
                self._todo.popleft(),
                image_ids=[image.image_id for image in images],
                detections_per_image=np.array([len(image.label) for image in images]),
                label=np.concatenate([image.label for image in images]),
                score=np.concatenate([image.score for image in images]),
                box=np.concatenate([image.box for image in images]),
                label_names=self._label_names(),
                class_names=self.dataset_meta['classes'],
            )

    def _with_ancestors(self, found: ImageDetections) -> ImageDetections:
        if self.store is None:
            return found
        image = np.zeros(len(found.label), dtype=np.int64)
        rows, label = add_ancestors(self._hierarchy, image, found.label, found.score, found.box, self.ancestor_nms)
        return ImageDetections(found.image_id, label, found.score[rows], found.box[rows])

    def evaluate(self, size: int) -> dict:
        """Joins the shards when all processes have finished."""
        assert self.shards is not None
        if self._todo:
            raise ValueError(f'PredictionDump: images from {self._todo[0][0]} on were not tested; the loop ended early')
        barrier()
        if is_main_process():
            count = self.shards.join(self._label_names(), self.dataset_meta['classes'], overwrite=True)
            print_log(f'Wrote {count} detections on {size} images to {self.out}', logger='current')
        barrier()
        self.shards = None
        return {}

    def compute_metrics(self, results: list) -> dict:
        """No figures."""
        return {}

    def _label_names(self) -> Sequence[str]:
        return self.dataset_meta.get('label_names', self.dataset_meta['classes'])
