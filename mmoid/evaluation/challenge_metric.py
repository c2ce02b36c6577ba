"""OpenImagesChallengeMetric: the official metric as an mmengine metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from rich.box import ASCII
from rich.console import Console
from rich.table import Table

from mmoid.evaluation.detections import image_detections
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.average_precision import GroundTruth, Matches
from mmoid.openimages.metric.class_groups import train_image_counts
from mmoid.openimages.metric.evaluator import Evaluator
from mmoid.openimages.metric.protocol import PROTOCOLS, Protocol
from mmoid.openimages.metric.result import Evaluation, write_json, write_table
from mmoid.openimages.store.annotation_store import AnnotationStore


@dataclass(frozen=True, eq=False)
class ImageMatches:
    """What ranks exchange for an image: its index, the number of detections given, and the verdict on them."""

    image: int
    num_detections: int
    matches: Matches


@METRICS.register_module()
class OpenImagesChallengeMetric(BaseMetric):
    """mAP by the official rules (:mod:`mmoid.openimages.metric.average_precision`), and what it is made of.

    Detections are matched batch by batch as they arrive, so ranks exchange matches, not boxes. The images evaluated
    are those that the model was run on.

    Reports ``openimages/mAP``, with the protocol beside it: image-level labels, expansion and group-of weight alone
    move the figure by several points. Then, for log and plots, ``openimages/mAP_leaf`` and ``mAP_parent``,
    ``mAP_level1``, ... by the level below the root, ``several_label_recall`` (:mod:`mmoid.openimages.metric.multi_label_recall`)
    and, given ``train_ann_file``, ``mAP_head``, ``mAP_middle``, ``mAP_tail``: a third each of the classes by the number
    of training images. A group of which no class has ground truth is left out; ``mAP`` itself is NaN then, and never
    the best.

    Args:
        ann_file: The store of the evaluated split. Ground truth comes from it, whatever the pipeline passes on.
        protocol: ``challenge``: ground truth expanded by the hierarchy, classes that are not verified in an image
            ignored, group-of boxes worth one true positive. ``v2``: no hierarchy, every detection counts, group-of
            boxes worth nothing.
        expand_detections: Add the ancestors of every detection first. The official evaluator does not; a model
            trained on label sets predicts them itself.
        iou_threshold: In (0, 1].
        train_ann_file: The store of the training split, or a CSV with the columns ``LabelName`` and ``images``.
        outfile_prefix: Writes ``<prefix>.json``, what ``tools/analysis_tools/evaluate_predictions.py --out`` writes, and
            ``<prefix>.csv``, a row for each class. Every validation replaces them.
        collect_device: As in mmengine.
        prefix: As in mmengine.

    Raises:
        AnnotationError: The store, classes of the model that it does not have, an option out of range: all of it before
            the first image.
    """

    default_prefix = 'openimages'

    def __init__(
        self,
        ann_file: str,
        protocol: Literal['challenge', 'v2'] = 'challenge',
        expand_detections: bool = False,
        iou_threshold: float = 0.5,
        train_ann_file: str | None = None,
        outfile_prefix: str | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if protocol not in PROTOCOLS:
            raise AnnotationError(f'evaluator.protocol must be one of {", ".join(PROTOCOLS)}, got {protocol!r}')
        if not 0 < iou_threshold <= 1:
            raise AnnotationError(f'evaluator.iou_threshold must be in (0, 1], got {iou_threshold}')
        self.store = AnnotationStore(Path(ann_file))
        self.protocol = Protocol(protocol, expand_detections, iou_threshold)
        self.train_ann_file = train_ann_file
        self.outfile_prefix = outfile_prefix
        if outfile_prefix is not None:  # what cannot be written is told now
            Path(outfile_prefix).parent.mkdir(parents=True, exist_ok=True)

    @property
    def dataset_meta(self) -> dict | None:
        """Meta information of the data set that the model is run on; set by mmengine when the loop is built."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        self._dataset_meta = dataset_meta
        self.__dict__.pop('evaluator', None)
        self._require_classes()

    @property
    def label_names(self) -> tuple[str, ...]:
        """MIDs of the classes that the model predicts; the metric is over these."""
        return tuple((self.dataset_meta or {}).get('label_names', self.store.label_names))

    @cached_property
    def evaluator(self) -> Evaluator:
        """The ground truth and the rules."""
        return Evaluator(annotations_of_store(self.store, self.label_names), self.protocol, self._train_images())

    @property
    def ground_truth(self) -> GroundTruth:
        """What detections are held against."""
        return self.evaluator.ground_truth

    @cached_property
    def _image_index(self) -> dict[str, int]:
        return {image_id: i for i, image_id in enumerate(self.store.image_ids())}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Matches the detections of a batch; ``data_samples`` need ``img_id``, ``ori_shape``, ``pred_instances``."""
        for found in image_detections(data_samples):
            if found.image_id not in self._image_index:
                raise AnnotationError(f'evaluator.ann_file = {self.store.path}: has no image {found.image_id!r}')
            image, number = self._image_index[found.image_id], len(found.label)
            matches = self.evaluator.match(np.full(number, image), found.label, found.score, found.box)
            self.results.append(ImageMatches(image, number, matches))

    def compute_metrics(self, results: list[ImageMatches]) -> dict[str, float]:
        # A distributed sampler gives some images twice to even out the ranks: each counts once.
        by_image = {result.image: result for result in results}
        evaluation = self.evaluator.evaluate(
            Matches.concatenate([result.matches for result in by_image.values()]),
            np.array([result.num_detections for result in by_image.values()], dtype=np.int64),
            np.array(list(by_image), dtype=np.int64),
        )
        print_log(f'\n{table_of(evaluation)}', logger='current')
        print_log(f'mAP {evaluation.mean_ap:.4f} ({evaluation.description})', logger='current')
        if self.outfile_prefix is not None:
            write_json(f'{self.outfile_prefix}.json', evaluation)
            write_table(f'{self.outfile_prefix}.csv', evaluation)
        return evaluation.scalars()

    def describe(self, num_images: int, num_classes: int) -> str:
        """The protocol in words, for whoever reads the number."""
        return self.evaluator.describe(num_images, num_classes)

    def _require_classes(self) -> None:
        """Raises now what would come up at the first image only, an epoch later."""
        unknown = [name for name in self.label_names if name not in self.store.label_names]
        if unknown:
            raise AnnotationError(f'evaluator.ann_file = {self.store.path}: does not have the class {unknown[0]!r}')
        meta: dict[str, Any] = self.dataset_meta or {}
        if 'label_names' not in meta and len(meta.get('classes', self.store.label_names)) != self.store.num_classes:
            raise AnnotationError(
                f'evaluator.ann_file = {self.store.path}: has {self.store.num_classes} classes, the data set '
                f'{len(meta["classes"])}; name their MIDs in the metainfo of the data set, label_names=(…)'
            )
        self._train_images()

    def _train_images(self) -> np.ndarray | None:
        if self.train_ann_file is None:
            return None
        try:
            return train_image_counts(self.train_ann_file, self.label_names, self.protocol.is_challenge)
        except AnnotationError as error:
            raise AnnotationError(f'evaluator.train_ann_file = {error}') from error


def table_of(evaluation: Evaluation) -> str:
    """The figures of groups as text, for log files too."""
    table = Table(show_header=False, box=ASCII)
    for justify in ('left', 'left', 'right', 'right'):
        table.add_column(justify=justify, no_wrap=True)
    for row in evaluation.summary():
        table.add_row(*row)
    console = Console(width=120, color_system=None)
    with console.capture() as text:
        console.print(table)
    return text.get()
