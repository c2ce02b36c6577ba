"""OpenImagesChallengeMetric: the official metric as an mmengine metric."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.metric import (
    GroundTruth,
    Matches,
    average_precision,
    count_positives,
    match_detections,
    mean_average_precision,
)
from mmoid.openimages.protocol import PROTOCOLS, Protocol
from mmoid.openimages.store import AnnotationStore

from .detections import image_detections


@METRICS.register_module()
class OpenImagesChallengeMetric(BaseMetric):
    """mAP by the official rules (:mod:`mmoid.openimages.metric`).

    Detections are matched batch by batch as they arrive, so ranks exchange matches, not boxes. The images evaluated
    are those that the model was run on. Reports ``openimages/mAP``, with the protocol beside it: image-level labels,
    expansion and group-of weight alone move the figure by several points.

    Args:
        ann_file: The store of the evaluated split. Ground truth comes from it, whatever the pipeline passes on.
        protocol: ``challenge``: ground truth expanded by the hierarchy, classes that are not verified in an image
            ignored, group-of boxes worth one true positive. ``v2``: no hierarchy, every detection counts, group-of
            boxes worth nothing.
        expand_detections: Add the ancestors of every detection first. The official evaluator does not; a model
            trained on label sets predicts them itself.
        iou_threshold: In (0, 1].
        collect_device: As in mmengine.

    Raises:
        AnnotationError: The store, or classes of the model that it does not have.
    """

    default_prefix = 'openimages'

    def __init__(
        self,
        ann_file: str,
        protocol: Literal['challenge', 'v2'] = 'challenge',
        expand_detections: bool = False,
        iou_threshold: float = 0.5,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if protocol not in PROTOCOLS:
            raise ValueError(f'evaluator.protocol must be one of {", ".join(PROTOCOLS)}, got {protocol!r}')
        self.store = AnnotationStore(Path(ann_file))
        self.protocol: Literal['challenge', 'v2'] = protocol
        self.expand_detections = expand_detections
        self.iou_threshold = iou_threshold
        self.group_of_weight = Protocol(protocol).group_of_weight

    @cached_property
    def label_names(self) -> tuple[str, ...]:
        """MIDs of the classes that the model predicts; the metric is over these."""
        names = tuple((self.dataset_meta or {}).get('label_names', self.store.label_names))
        unknown = [name for name in names if name not in self.store.label_names]
        if unknown:
            raise AnnotationError(f'evaluator.ann_file = {self.store.path}: does not have the class {unknown[0]!r}')
        return names

    @cached_property
    def hierarchy(self) -> ClassHierarchy:
        return ClassHierarchy(self.store.metadata['hierarchy'], self.label_names, source=str(self.store.path))

    @cached_property
    def ground_truth(self) -> GroundTruth:
        store, names = self.store, self.label_names
        new_label = np.array([names.index(name) if name in names else -1 for name in store.label_names])
        label, label_class = new_label[store.box_label], new_label[store.image_label]
        box, verified = label >= 0, label_class >= 0
        return GroundTruth.build(
            num_images=store.num_images,
            num_classes=len(names),
            image=store.image_of_box()[box],
            label=label[box],
            box=store.box[box],
            is_group_of=store.is_group_of[box] == 1,
            label_image=store.image_of_label()[verified],
            label_class=label_class[verified],
            label_confidence=store.image_label_confidence[verified],
            hierarchy=self.hierarchy if self.protocol == 'challenge' else None,
            verified_only=self.protocol == 'challenge',
        )

    @cached_property
    def _image_index(self) -> dict[str, int]:
        return {image_id: i for i, image_id in enumerate(self.store.image_ids())}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Matches the detections of a batch; ``data_samples`` need ``img_id``, ``ori_shape``, ``pred_instances``."""
        for found in image_detections(data_samples):
            if found.image_id not in self._image_index:
                raise AnnotationError(f'evaluator.ann_file = {self.store.path}: has no image {found.image_id!r}')
            image = self._image_index[found.image_id]
            label, score, box = found.label, found.score, found.box
            if self.expand_detections:
                rows, label = self.hierarchy.expand_up(label)
                score, box = score[rows], box[rows]
            matches = match_detections(
                self.ground_truth, np.full(len(label), image), label, score, box, self.iou_threshold,
                self.group_of_weight,
            )  # fmt: skip
            self.results.append((image, matches))

    def compute_metrics(self, results: list[tuple[int, Matches]]) -> dict[str, float]:
        # A distributed sampler gives some images twice to even out the ranks: each counts once.
        by_image = dict(results)
        matches = Matches.concatenate(list(by_image.values()))
        positives = count_positives(self.ground_truth, self.group_of_weight, np.array(list(by_image), dtype=np.int64))
        ap = average_precision(matches, positives)
        mean = mean_average_precision(ap)
        print_log(f'mAP {mean:.4f} ({self.describe(len(by_image), int((positives > 0).sum()))})', logger='current')
        return {'mAP': mean}

    def describe(self, num_images: int, num_classes: int) -> str:
        """The protocol in words, for whoever reads the number."""
        rules = Protocol(self.protocol, self.expand_detections, self.iou_threshold)
        return rules.describe(len(self.store.image_label) > 0, num_images, num_classes, len(self.label_names))
