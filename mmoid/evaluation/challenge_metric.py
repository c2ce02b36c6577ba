"""OpenImagesChallengeMetric: the official metric as an mmengine metric."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.class_groups import train_image_counts
from mmoid.openimages.metric.evaluator import Evaluator, Protocol
from mmoid.openimages.metric.matching import Matches
from mmoid.openimages.predictions.prediction_store import Detections, check_detections
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.summary import Summary


def image_detections(
    data_samples: Sequence[dict[str, Any]],
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Converts the samples that mmengine gives to metrics.

    Yields:
        Of each image its ImageID, (D,) class indices, (D,) float64 scores, and (D, 4) float64 xmin, ymin, xmax, ymax as
        fractions of the original image size.
    """
    for sample in data_samples:
        height, width = sample['ori_shape'][:2]
        instances = sample['pred_instances']
        label = instances['labels'].cpu().numpy()
        score = instances['scores'].detach().to(torch.float64).cpu().numpy()
        box = instances['bboxes'].detach().cpu().numpy().astype(np.float64)
        yield str(sample['img_id']), label, score, box / (width, height, width, height)


@METRICS.register_module()
class OpenImagesChallengeMetric(BaseMetric):
    """mAP by the official rules (:mod:`mmoid.openimages.metric`).

    Detections are matched batch by batch as they arrive, so ranks exchange matches, not boxes. Only images that the
    model was run on are evaluated.

    Logs ``openimages/mAP`` with its protocol, since image-level labels, expansion and group-of weight alone move it by
    several points. Also ``openimages/mAP_leaf`` and ``mAP_parent``, ``mAP_level1``, ... by level of the hierarchy,
    ``multi_label_recall`` (:mod:`mmoid.openimages.metric.result`) and, given ``train_ann_file``,
    ``mAP_head``, ``mAP_middle``, ``mAP_tail``: a third each of the classes by number of training images (for LVIS
    ``mAP_rare``, ``mAP_common``, ``mAP_frequent``: 1-10, 11-100 and more of them). Figures without ground truth are
    left out; ``mAP`` itself is NaN then.

    Args:
        ann_file: Store of the evaluated split. All ground truth comes from it.
        protocol: ``challenge`` or ``v2``; see :class:`mmoid.openimages.metric.evaluator.Protocol`, as for the next
            three.
        expand_detections: Add the ancestors of every detection first. The heads of mmoid add them themselves.
        ancestor_nms: IoU threshold of the NMS after that; None: no NMS.
        iou_threshold: In (0, 1].
        train_ann_file: Store of the training split, or a CSV with the columns ``LabelName`` and ``images``. If it does
            not exist, a warning says which figures are missing.
        outfile_prefix: Writes ``<prefix>.json`` (the figures of ``evaluate_predictions.py --out``) and
            ``<prefix>.csv`` (a row for each class). Every validation replaces them.
        collect_device: As in mmengine.
        prefix: As in mmengine.

    Raises:
        AnnotationError: A store that cannot be used, or one without a class of the model.
        ValueError: An option out of range.
    """

    default_prefix = 'openimages'

    def __init__(
        self,
        ann_file: str,
        protocol: Literal['challenge', 'v2'] = 'challenge',
        expand_detections: bool = False,
        ancestor_nms: float | None = 0.5,
        iou_threshold: float = 0.5,
        train_ann_file: str | None = None,
        outfile_prefix: str | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.store = AnnotationStore(Path(ann_file))
        if not self.store.num_boxes:
            text = f'evaluator.ann_file = {ann_file}: has no boxes, so mAP will be NaN; mmoid predict needs none'
            print_log(text, logger='current', level=logging.WARNING)
        self.protocol = Protocol(protocol, expand_detections, iou_threshold, ancestor_nms)
        if train_ann_file is not None and not Path(train_ann_file).exists():
            text = f'evaluator.train_ann_file = {train_ann_file}: does not exist; no mAP of classes by frequency'
            print_log(text, logger='current', level=logging.WARNING)
            train_ann_file = None
        self.train_ann_file = train_ann_file
        self.outfile_prefix = outfile_prefix
        if outfile_prefix is not None:  # fail now, not after an epoch
            Path(outfile_prefix).parent.mkdir(parents=True, exist_ok=True)

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        """Meta information of the data set that the model is run on. mmengine sets it when it builds the loop."""
        self._dataset_meta = dataset_meta
        self.__dict__.pop('evaluator', None)
        self.evaluator  # noqa: B018  (fail now, not at the first image)

    @cached_property
    def evaluator(self) -> Evaluator:
        """The ground truth and the rules, over the classes that the model predicts."""
        meta: dict[str, Any] = self.dataset_meta or {}
        label_names = meta.get('label_names', self.store.label_names)
        if 'label_names' not in meta and len(meta.get('classes', label_names)) != len(label_names):
            raise AnnotationError(
                f'evaluator.ann_file = {self.store.path}: has {len(label_names)} classes, the data set '
                f'{len(meta["classes"])}; give their MIDs in the metainfo of the data set, label_names=(...)'
            )
        train_images = None
        if self.train_ann_file is not None:
            train_images = train_image_counts(self.train_ann_file, label_names, self.protocol.is_challenge)
        return Evaluator(annotations_of_store(self.store, label_names), self.protocol, train_images)

    @cached_property
    def _image_index(self) -> dict[str, int]:
        return {image_id: i for i, image_id in enumerate(self.store.image_ids())}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Matches the detections of a batch; ``data_samples`` need ``img_id``, ``ori_shape``, ``pred_instances``."""
        for image_id, label, score, box in image_detections(data_samples):
            if image_id not in self._image_index:
                raise AnnotationError(f'evaluator.ann_file = {self.store.path}: has no image {image_id!r}')
            image = self._image_index[image_id]
            place = f'detections of image {image_id!r}'
            score, has_area = check_detections(score, box, place, Summary(), farthest=np.inf)
            kept = np.flatnonzero(has_area)
            found = Detections(np.full(len(kept), image), label[kept], score[kept], box[kept])
            expanded = self.evaluator.with_ancestors(found)
            matches = self.evaluator.match(expanded)
            self.results.append((image, len(expanded[0]), len(label) - len(kept), matches))

    def compute_metrics(self, results: list[tuple[int, int, int, Matches]]) -> dict[str, float]:
        """Computes the figures from what ranks exchange: image, its counted and left out detections, their matches."""
        # A distributed sampler repeats some images so that all ranks have the same number. Each counts once.
        by_image = {image: found for image, *found in results}
        counted, without_area, matches = zip(*by_image.values()) if by_image else ((), (), ())
        evaluation = self.evaluator.evaluate(
            Matches.concatenate(matches),
            np.array(counted, dtype=np.int64),
            np.array(list(by_image), dtype=np.int64),
            Summary(dropped={'without area': sum(without_area)} if any(without_area) else {}),
        )
        rows = evaluation.summary()
        widths = [max(map(len, column)) for column in zip(*rows)]
        cells = ([f'{cell:{side}{width}}' for cell, side, width in zip(row, '<<>>', widths)] for row in rows)
        table = '\n'.join(f'| {" | ".join(row)} |' for row in cells)
        print_log(f'\n{table}', logger='current')
        print_log(f'mAP {evaluation.mean_ap:.4f} ({evaluation.description})', logger='current')
        if self.outfile_prefix is not None:
            evaluation.write_json(f'{self.outfile_prefix}.json')
            evaluation.write_table(f'{self.outfile_prefix}.csv')
        return evaluation.scalars()
