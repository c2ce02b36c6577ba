"""Evaluation: the figures of a set of predictions, as JSON, as a table and as scalars for a log.

Recall of objects with several labels: of a Wheel that is also a Tire, are both found? An object is a set of boxes of
one image that overlap by IoU >= 0.9 (:mod:`mmoid.openimages.statistics.objects`). It counts if its annotated boxes
carry different labels. A label of it is found if the official matching (:mod:`mmoid.openimages.metric.matching`) gives
a detection of that class, at any score, to a box of the object: to a box of the label, or to the copy of a
descendant's box.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv as pa_csv

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric.annotations import Annotations
from mmoid.openimages.metric.average_precision import mean_average_precision
from mmoid.openimages.metric.class_groups import ClassGroup
from mmoid.openimages.metric.matching import GroundTruth
from mmoid.openimages.statistics.objects import object_of_box
from mmoid.utils.atomic import atomic_write


@dataclass(frozen=True)
class MultiLabelRecall:
    """``objects`` with several labels, their (object, label) ``pairs``, and how many of these were ``found``."""

    objects: int
    pairs: int
    found: int

    @property
    def recall(self) -> float:
        """In [0, 1]; NaN without such objects."""
        return self.found / self.pairs if self.pairs else math.nan


def annotated_objects(annotations: Annotations) -> np.ndarray:
    """(B,) int64 object of each annotated box, whatever its labels; -1: a group-of box."""
    order = np.argsort(annotations.image, kind='stable')  # the rows of an image may lie anywhere in a file
    stop = np.cumsum(np.bincount(annotations.image, minlength=len(annotations.image_ids)))
    objects = np.empty(len(order), dtype=np.int64)
    objects[order] = object_of_box(annotations.box[order], stop, annotations.is_group_of[order])
    return objects


def multi_label_recall(
    annotations: Annotations,
    objects: np.ndarray,
    ground_truth: GroundTruth,
    found: np.ndarray,
    images: np.ndarray | Sequence[int] | None = None,
) -> MultiLabelRecall:
    """Counts the (object, label) pairs that were found.

    Args:
        annotations: Of all images.
        objects: Their :func:`annotated_objects`.
        ground_truth: Built from them, expanded or not.
        found: (F,) rows of the ground truth that were found (:attr:`Matches.found`).
        images: (I,) int indices of the images evaluated; None: all.
    """
    num_classes = len(annotations.classes)
    counts = objects >= 0
    if images is not None:
        counts &= np.isin(annotations.image, images)
    pair = np.unique(objects[counts] * num_classes + annotations.label[counts])
    pair = pair[np.bincount(pair // num_classes)[pair // num_classes] > 1]
    of_found = objects[ground_truth.source[found]] * num_classes + ground_truth.label[found]
    return MultiLabelRecall(len(np.unique(pair // num_classes)), len(pair), int(np.isin(pair, of_found).sum()))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The figures that :class:`mmoid.openimages.metric.evaluator.Evaluator` computes."""

    description: str  # the protocol in words
    rules: Mapping[str, Any]  # the protocol as JSON values
    classes: ClassNames  # the C classes
    ap: np.ndarray  # (C,) float64, NaN for classes without ground truth
    positives: np.ndarray  # (C,) float64 single boxes + weight x group-of boxes
    scored: np.ndarray  # (C,) int64 detections and found groups that count
    true_positives: np.ndarray  # (C,) float64 sum of their values
    num_images: int  # images evaluated
    num_images_without_detections: int  # of these. If there are many, the model was run on other images
    num_detections: int  # given, ancestors included
    left_out: Mapping[str, int]  # number of detections that were left out, by reason
    changed: Mapping[str, int]  # number of detections that were changed while they were read, by reason
    groups: Sequence[ClassGroup]  # groups of classes that get an mAP of their own
    multi_label: MultiLabelRecall  # recall of the objects with several labels
    class_columns: Mapping[str, pa.Array]  # further columns of the table, C rows

    @property
    def mean_ap(self) -> float:
        """Mean AP of the classes with ground truth; NaN if there are none."""
        return mean_average_precision(self.ap)

    def group_ap(self, group: ClassGroup) -> float:
        """Mean AP of the classes of a group that have ground truth; NaN if there are none."""
        return mean_average_precision(self.ap[group.labels])

    def scalars(self) -> dict[str, float]:
        """``mAP`` (may be NaN), then ``mAP_head``, ``mAP_leaf``, ``mAP_level1``, ..., ``multi_label_recall``.

        Apart from ``mAP``, figures without ground truth are left out.
        """
        scalars = {f'mAP_{group.name}': self.group_ap(group) for group in self.groups}
        scalars['multi_label_recall'] = self.multi_label.recall
        return {'mAP': self.mean_ap, **{name: value for name, value in scalars.items() if not math.isnan(value)}}

    def summary(self) -> list[list[str]]:
        """Rows of a table: figure, what it is of, the size of that, value (``-`` without ground truth)."""
        rows: list[tuple[str, str, str, float]] = []
        for group in (*self.groups, ClassGroup('', 'all classes with ground truth', np.arange(len(self.ap)))):
            size = f'{self._count(group.labels)} of {len(group.labels)} classes'
            rows.append((f'mAP {group.name}'.strip(), group.meaning, size, self.group_ap(group)))
        size = f'{self.multi_label.pairs:,} on {self.multi_label.objects:,} objects'
        rows.insert(-1, ('recall', 'labels of objects with several labels', size, self.multi_label.recall))
        return [[*words, '-' if math.isnan(value) else f'{value:.4f}'] for *words, value in rows]

    def as_json(self) -> dict[str, Any]:
        """JSON values; None where a class has no ground truth."""

        def by_name(values: Sequence[Any]) -> dict[str, Any]:
            return dict(zip(self.classes.label_names, values))

        def of_classes(labels: np.ndarray) -> dict[str, Any]:
            ap = _none_if_nan(mean_average_precision(self.ap[labels]))
            return {'mAP': ap, 'num_classes': len(labels), 'num_classes_with_ground_truth': self._count(labels)}

        return {
            **of_classes(np.arange(len(self.ap))),
            'protocol': self.description,
            **self.rules,
            'num_images': self.num_images,
            'num_images_without_detections': self.num_images_without_detections,
            'num_detections': self.num_detections,
            'left_out': dict(self.left_out),
            'changed': dict(self.changed),
            'groups': {group.name: {'meaning': group.meaning, **of_classes(group.labels)} for group in self.groups},
            'multi_label_objects': {
                'recall': _none_if_nan(self.multi_label.recall),
                'num_objects': self.multi_label.objects,
                'num_pairs': self.multi_label.pairs,
                'num_found': self.multi_label.found,
            },
            'AP': by_name([_none_if_nan(value) for value in self.ap.tolist()]),
            'num_gt': by_name(self.positives.tolist()),
            'num_scored': by_name(self.scored.tolist()),
            'sum_tp': by_name(self.true_positives.tolist()),
            'class_names': by_name(self.classes.display_names),
        }

    def write_json(self, path: str | Path) -> None:
        """Writes :meth:`as_json`, atomically."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.as_json(), indent=1, allow_nan=False))

    def write_table(self, path: str | Path) -> None:
        """Writes a CSV with a row for each class, atomically. The AP of a class without ground truth is empty."""
        columns = {
            'LabelName': list(self.classes.label_names),
            'ClassName': list(self.classes.display_names),
            'AP': pa.array(self.ap, mask=np.isnan(self.ap)),
            'num_gt': self.positives,
            'num_scored': self.scored,
            'sum_tp': self.true_positives,
            **self.class_columns,
        }
        with atomic_write(path) as temporary:
            pa_csv.write_csv(pa.table(columns), temporary)

    def _count(self, labels: np.ndarray) -> int:
        """Classes with ground truth."""
        return int((self.positives[labels] > 0).sum())


def read_ap(path: str | Path) -> dict[str, float]:
    """AP by MID from a JSON of :meth:`Evaluation.write_json`; NaN for null.

    Raises:
        AnnotationError: Not such a file.
    """
    try:
        figures = json.loads(Path(path).read_text())['AP']
        return {str(name): math.nan if value is None else float(value) for name, value in figures.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = 'mmoid evaluate --out writes one'
        raise AnnotationError(f"{path}: not a JSON with 'AP' by MID ({error!r}); {remedy}") from error


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
