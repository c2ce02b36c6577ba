"""PredictionDump writes the detections of a test; ResumableTestLoop resumes a killed test from what was written."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.registry import LOOPS, METRICS
from mmengine.dataset import DefaultSampler
from mmengine.dist import barrier, get_dist_info, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.runner import Runner, TestLoop
from torch.utils.data import BatchSampler

from mmoid.evaluation.challenge_metric import OpenImagesChallengeMetric, image_detections
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions.ancestors import with_ancestors
from mmoid.openimages.predictions.prediction_store import Detections
from mmoid.openimages.predictions.shards import PredictionShards, join_run, open_shards
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.arrow_folder import require_replaceable

RUN = 'a test run'
SHARDS_PER_PROCESS = 8
"""At least, if there are enough images."""


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
        if is_main_process():
            # Enough shards that all processes finish at the same time; whole batches, so every run has the same ones.
            length = min(self.images_per_shard, num_images // (SHARDS_PER_PROCESS * world_size))
            length = batch_size * max(1, -(-length // batch_size))
            ancestors = None if self.store is None else [self.store.metadata['hierarchy'], self.ancestor_nms]
            plan = {**plan, 'batch_size': batch_size, 'classes': list(self._label_names), 'ancestors': ancestors}
            sizes = dict(num_images=num_images, images_per_shard=length)
            open_shards(self.out, plan, run=RUN, **sizes, overwrite=True, restart=self.restart)
        barrier()
        self.shards = join_run(self.out, num_images, RUN)
        done = self.shards.done()
        barrier()  # no process writes before all have looked
        self._done = done[rank::world_size]
        self._todo = deque(sorted(set(self.shards.bounds) - set(done))[rank::world_size])
        self._found: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []
        count = sum(last - first for first, last in done)
        if count:
            print_log(f'{self.shards.folder}: {count} of {num_images} images were tested before', logger='current')
        return [image for first, last in self._todo for image in range(first, last)]

    def earlier(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yields the first image of each finished shard and its samples, as a metric gets them.

        Each process has its part of the shards. Boxes are those of an image of 1 x 1 pixel, so that the fractions stay
        the same to the last bit.
        """
        assert self.shards is not None
        for bound in self._done:
            store = self.shards.read(bound)
            samples = []
            for image, image_id in enumerate(store.image_ids()):
                _, label, score, box = map(torch.from_numpy, store.detections(np.array([image])))
                instances = dict(bboxes=box, scores=score, labels=label.long())
                samples.append(dict(img_id=image_id, ori_shape=(1, 1), pred_instances=instances))
            yield bound[0], samples

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps the detections of a batch and writes a shard when it is complete."""
        if self.shards is None:
            raise ValueError("PredictionDump needs test_cfg=dict(type='mmoid.ResumableTestLoop')")
        for image_id, label, score, box in image_detections(data_samples):
            if self._hierarchy is not None:
                found = Detections(np.zeros(len(label), dtype=np.int64), label, score, box)
                _, label, score, box = with_ancestors(self._hierarchy, found, self.ancestor_nms)
            self._found.append((image_id, label, score, box))
        first, last = self._todo[0]
        if len(self._found) == last - first:
            image_ids, labels, scores, boxes = zip(*self._found)
            self._found = []
            self.shards.write(
                self._todo.popleft(),
                image_ids=image_ids,
                detections_per_image=np.array([len(label) for label in labels]),
                label=np.concatenate(labels),
                score=np.concatenate(scores),
                box=np.concatenate(boxes),
                label_names=self._label_names,
                class_names=self.dataset_meta['classes'],
            )

    def evaluate(self, size: int) -> dict:
        """Joins the shards when all processes have finished."""
        assert self.shards is not None
        if self._todo:
            raise ValueError(f'PredictionDump: images from {self._todo[0][0]} on were not tested; the loop ended early')
        barrier()
        if is_main_process():
            count = self.shards.join(self._label_names, self.dataset_meta['classes'], overwrite=True)
            print_log(f'Wrote {count} detections on {size} images to {self.out}', logger='current')
        barrier()
        self.shards = None
        return {}

    def compute_metrics(self, results: list) -> dict:
        """No figures."""
        return {}

    @cached_property
    def _hierarchy(self) -> ClassHierarchy | None:
        if self.store is None:
            return None
        return ClassHierarchy(self.store.metadata['hierarchy'], self._label_names, str(self.store.path))

    @property
    def _label_names(self) -> Sequence[str]:
        return self.dataset_meta.get('label_names', self.dataset_meta['classes'])


@LOOPS.register_module()
class ResumableTestLoop(TestLoop):
    """mmengine's ``TestLoop`` that can be killed and resumed if a :class:`PredictionDump` is among the metrics.

    Images that were tested before are not loaded again: metrics get their predictions from the shards. A resumed run
    gives the same bytes and the same mAP as an uninterrupted one, with any number of processes. Each image is tested
    once; no process repeats images to even out their number.

    The arguments are those of ``TestLoop``; ``dataloader`` gives images in order, without a batch sampler of its own.

    Raises:
        ValueError: A loader of another kind; on resuming, a metric that needs more than predictions.
        AnnotationError: On starting: there are shards of another checkpoint, model, data set or batch size.
    """

    def __init__(self, runner: Runner, dataloader: Any, evaluator: Any, fp16: bool = False) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        dumps = [metric for metric in self.evaluator.metrics if isinstance(metric, PredictionDump)]
        if len(dumps) > 1:
            raise ValueError(f'test_evaluator: expects at most one PredictionDump, got {len(dumps)}')
        self.dump = dumps[0] if dumps else None
        loader = self.dataloader
        in_order = isinstance(loader.sampler, DefaultSampler) and not loader.sampler.shuffle
        if dumps and (not in_order or type(loader.batch_sampler) is not BatchSampler or loader.drop_last):
            raise ValueError(
                "test_dataloader: to write predictions it needs sampler=dict(type='DefaultSampler', shuffle=False), "
                'drop_last=False and no batch_sampler, so that a resumed run knows which images were tested'
            )

    def run(self) -> dict:
        if self.dump is not None:
            self._resume(self.dump)
        return super().run()

    def _resume(self, dump: PredictionDump) -> None:
        """Gives the metrics what was tested before, and leaves the rest to the loader."""
        dataset = self.dataloader.dataset
        images = dump.open(self._plan(), len(dataset), self.dataloader.batch_size)
        self.dataloader.batch_sampler.sampler = images
        others = [metric for metric in self.evaluator.metrics if metric is not dump]
        for first, samples in dump.earlier():
            for offset in (0, len(samples) - 1):
                index, tested = first + offset, samples[offset]['img_id']
                own = str(dataset.get_data_info(index)['img_id'])
                if own != tested:
                    raise AnnotationError(
                        f'{dump.out}.parts: image {index} is {tested!r}, in the data set it is {own!r}; the data set '
                        'has changed. Remove the shards with restart=True (--restart)'
                    )
            for metric in others:
                if not isinstance(metric, OpenImagesChallengeMetric):
                    raise ValueError(
                        f'test_evaluator: {type(metric).__name__} needs more than the predictions in {dump.out}.parts; '
                        'leave it out to resume, or start again with restart=True (--restart)'
                    )
                metric.process({}, samples)

    def _plan(self) -> dict[str, Any]:
        """Everything that the predictions depend on."""
        cfg, checkpoint = self.runner.cfg, self.runner._load_from
        identity = [checkpoint]
        if checkpoint is not None and Path(checkpoint).is_file():
            status = Path(checkpoint).stat()
            identity = [status.st_size, status.st_mtime_ns]
        # Values that JSON does not know become their text.
        parts = {'model': cfg.get('model'), 'data_set': cfg.get('test_dataloader', {}).get('dataset')}
        texts = {name: json.dumps(part, sort_keys=True, default=str) for name, part in parts.items()}
        return {'checkpoint': identity, **texts, 'fp16': self.fp16}
