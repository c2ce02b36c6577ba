"""Evaluation: the figures of a set of predictions, as JSON, as a table and as scalars for a log."""

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

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric.class_groups import GroupScore
from mmoid.openimages.metric.multi_label_recall import ObjectRecall
from mmoid.openimages.metric.protocol import Protocol
from mmoid.utils.atomic import atomic_write


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What :class:`mmoid.openimages.metric.evaluator.Evaluator` makes of predictions.

    Attributes:
        protocol: The rules.
        description: The rules in words.
        label_names: MIDs of the C classes.
        class_names: Their display names.
        mean_ap: Over the classes that have ground truth; NaN where none has.
        ap: (C,) float64, NaN for classes without ground truth.
        positives: (C,) float64, single boxes + weight x group-of boxes.
        scored: (C,) int64, detections and found groups that count.
        true_positives: (C,) float64, their values summed.
        num_images: N, evaluated.
        num_images_without_detections: Of these; many of them say that the model was run on other images.
        num_detections: Given, before ancestors were added.
        left_out: Detections that were not looked at, by why.
        groups: mAP of groups of classes.
        objects: Recall of the objects with several labels.
        class_columns: Further columns of the table, C rows: the groups of each class.
    """

    protocol: Protocol
    description: str
    label_names: tuple[str, ...]
    class_names: tuple[str, ...]
    mean_ap: float
    ap: np.ndarray
    positives: np.ndarray
    scored: np.ndarray
    true_positives: np.ndarray
    num_images: int
    num_images_without_detections: int
    num_detections: int
    left_out: Mapping[str, int]
    groups: Sequence[GroupScore]
    objects: ObjectRecall
    class_columns: Mapping[str, pa.Array]

    def scalars(self) -> dict[str, float]:
        """``mAP`` (NaN if no class has ground truth) and, as far as there are any, the figures of groups.

        ``mAP_head``, ``mAP_leaf``, ``mAP_level1``, ...; ``several_label_recall``.
        """
        scalars = {f'mAP_{group.name}': group.mean_ap for group in self.groups}
        scalars['several_label_recall'] = self.objects.recall
        known = {name: value for name, value in scalars.items() if not math.isnan(value)}
        return {'mAP': self.mean_ap, **known}

    def summary(self) -> list[tuple[str, str, str, str]]:
        """Rows for a table of the groups: figure, what it is of, how many there are of that, value; ``-``: none."""

        def row(figure: str, of: str, number: str, value: float) -> tuple[str, str, str, str]:
            return figure, of, number, '-' if math.isnan(value) else f'{value:.4f}'

        rows = []
        for group in self.groups:
            number = f'{group.num_evaluated} of {group.num_classes} classes'
            rows.append(row(f'mAP {group.name}', group.meaning, number, group.mean_ap))
        number = f'{self.objects.pairs:,} on {self.objects.objects:,} objects'
        rows.append(row('recall', 'labels of objects with several', number, self.objects.recall))
        number = f'{(self.positives > 0).sum()} of {len(self.ap)} classes'
        return [*rows, row('mAP', 'all classes with ground truth', number, self.mean_ap)]

    def as_json(self) -> dict[str, Any]:
        """What :func:`write_json` writes; ``null`` where a class has no ground truth."""

        def by_name(values: Sequence[Any]) -> dict[str, Any]:
            return dict(zip(self.label_names, values))

        return {
            'mAP': _none_if_nan(self.mean_ap),
            'protocol': self.description,
            'metric': self.protocol.name,
            'group_of_weight': self.protocol.group_of_weight,
            'iou': self.protocol.iou_threshold,
            'expand_detections': self.protocol.expand_detections,
            'num_images': self.num_images,
            'num_images_without_detections': self.num_images_without_detections,
            'num_classes': len(self.label_names),
            'num_classes_with_ground_truth': int((self.positives > 0).sum()),
            'num_detections': self.num_detections,
            'left_out': dict(self.left_out),
            'groups': {
                group.name: {
                    'mAP': _none_if_nan(group.mean_ap),
                    'meaning': group.meaning,
                    'num_classes': group.num_classes,
                    'num_classes_with_ground_truth': group.num_evaluated,
                }
                for group in self.groups
            },
            'several_label_objects': {
                'recall': _none_if_nan(self.objects.recall),
                'num_objects': self.objects.objects,
                'num_pairs': self.objects.pairs,
                'num_found': self.objects.found,
            },
            'AP': by_name([_none_if_nan(value) for value in self.ap.tolist()]),
            'num_gt': by_name(self.positives.tolist()),
            'num_scored': by_name(self.scored.tolist()),
            'sum_tp': by_name(self.true_positives.tolist()),
            'class_names': by_name(self.class_names),
        }

    def as_table(self) -> pa.Table:
        """A row for each class; an AP is null where there is no ground truth."""
        return pa.table({
            'LabelName': list(self.label_names),
            'ClassName': list(self.class_names),
            'AP': pa.array(self.ap, mask=np.isnan(self.ap)),
            'num_gt': self.positives,
            'num_scored': self.scored,
            'sum_tp': self.true_positives,
            **self.class_columns,
        })  # fmt: skip


def write_json(path: str | Path, evaluation: Evaluation) -> None:
    """Writes :meth:`Evaluation.as_json`, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(evaluation.as_json(), indent=1, allow_nan=False))


def write_table(path: str | Path, evaluation: Evaluation) -> None:
    """Writes :meth:`Evaluation.as_table` as CSV, atomically."""
    with atomic_write(path) as temporary:
        pa_csv.write_csv(evaluation.as_table(), temporary)


def read_ap(path: str | Path) -> dict[str, float]:
    """AP by MID from a JSON of :func:`write_json`, NaN where it is null.

    Raises:
        AnnotationError: No JSON, or none with ``AP`` by label name.
    """
    try:
        figures = json.loads(Path(path).read_text())['AP']
        return {str(name): math.nan if value is None else float(value) for name, value in figures.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnnotationError(
            f"{path}: is no JSON with 'AP' by label name ({error!r}); tools/analysis_tools/evaluate_predictions.py --out writes one"
        ) from error


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
