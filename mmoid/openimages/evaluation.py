"""The metric on a whole set of predictions: figures by class, as JSON and as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from .annotations import Annotations
from .errors import AnnotationError
from .image_files import Progress, no_progress
from .metric import Matches, average_precision, count_positives, match_detections, mean_average_precision
from .new_file import new_file
from .prediction_files import PredictionSet, PredictionTable
from .protocol import Protocol
from .ragged import runs_of_rows

DETECTIONS_AT_ONCE = 1 << 20
"""Bounds the memory that expanding and matching takes, to some 300 MB."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What came of it.

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
        })  # fmt: skip


def evaluate_predictions(
    annotations: Annotations,
    predictions: PredictionSet,
    protocol: Protocol | None = None,
    other_classes: Literal['error', 'drop'] = 'error',
    progress: Progress = no_progress,
) -> Evaluation:
    """The official metric over all images that are annotated, whether there are predictions on them or not.

    Args:
        annotations: Of all images.
        predictions: Matched to them by ImageID and MID. Those on other images are left out, as the official evaluator
            does, and counted.
        protocol: The rules; None: those of the challenge.
        other_classes: What to do with detections of classes that are not annotated: raise, or leave them out.
        progress: Told how many detections are matched.

    Raises:
        AnnotationError: A class that is not known, an image that is there twice, no hierarchy where one is needed.
    """
    protocol = protocol or Protocol()
    ground_truth = annotations.ground_truth(protocol)
    hierarchy = annotations.require_hierarchy('expanding detections') if protocol.expand_detections else None
    image_of = _positions(predictions, annotations.image_ids)
    label_of = _class_positions(predictions, annotations.label_names, other_classes)
    counts = np.diff(predictions.detection_stop, prepend=0)
    dropped = predictions.dropped if isinstance(predictions, PredictionTable) else 0
    parts, elsewhere, other = [], 0, dropped
    for first, last in runs_of_rows(counts, DETECTIONS_AT_ONCE):
        stop = int(predictions.detection_stop[last - 1])
        rows = slice(stop - int(counts[first:last].sum()), stop)
        image = np.repeat(image_of[first:last], counts[first:last])
        label, score, box = label_of[predictions.label[rows]], predictions.score[rows], predictions.box[rows]
        elsewhere += int((image < 0).sum())
        other += int(((image >= 0) & (label < 0)).sum())
        kept = np.flatnonzero((image >= 0) & (label >= 0))
        image, label, score, box = image[kept], label[kept], score[kept], box[kept]
        if hierarchy is not None:
            sources, label = hierarchy.expand_up(label)
            image, score, box = image[sources], score[sources], box[sources]
        rules = (protocol.iou_threshold, protocol.group_of_weight)
        parts.append(match_detections(ground_truth, image, label, score, box, *rules))
        progress('matching detections', stop, len(predictions.label))
    matches = Matches.concatenate(parts)
    del parts
    positives = count_positives(ground_truth, protocol.group_of_weight)
    ap = average_precision(matches, positives)
    num_classes = len(annotations.label_names)
    left_out = {'on images that are not annotated': elsewhere, 'of other classes': other}
    return Evaluation(
        protocol=protocol,
        description=protocol.describe(
            has_image_labels=len(annotations.label_class) > 0,
            num_images=ground_truth.num_images,
            num_classes=int((positives > 0).sum()),
            of_classes=num_classes,
        ),
        label_names=annotations.label_names,
        class_names=annotations.class_names,
        mean_ap=mean_average_precision(ap),
        ap=ap,
        positives=positives,
        scored=np.bincount(matches.label, minlength=num_classes),
        true_positives=np.bincount(matches.label, weights=matches.value, minlength=num_classes),
        num_images=ground_truth.num_images,
        num_images_without_detections=ground_truth.num_images - int(((image_of >= 0) & (counts > 0)).sum()),
        num_detections=len(predictions.label) + dropped,
        left_out={why: count for why, count in left_out.items() if count},
    )


def write_json(path: str | Path, evaluation: Evaluation) -> None:
    """Writes :meth:`Evaluation.as_json`, atomically."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(evaluation.as_json(), indent=1, allow_nan=False))


def write_table(path: str | Path, evaluation: Evaluation) -> None:
    """Writes :meth:`Evaluation.as_table` as CSV, atomically."""
    with new_file(path) as temporary:
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
            f"{path}: is no JSON with 'AP' by label name ({error!r}); tools/evaluate_predictions.py --out writes one"
        ) from error


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def _positions(predictions: PredictionSet, image_ids: Sequence[str]) -> np.ndarray:
    """(N,) index of each image of the predictions among ``image_ids``, -1: not there."""
    found = pc.index_in(pa.array(predictions.image_ids(), pa.string()), pa.array(image_ids, pa.string()))
    image: np.ndarray = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    times = np.bincount(image[image >= 0])
    if (times > 1).any():
        name = image_ids[int(times.argmax())]
        raise AnnotationError(f'{predictions.path}: holds image {name!r} {times.max()} times; each must be there once')
    return image


def _class_positions(predictions: PredictionSet, label_names: Sequence[str], other_classes: str) -> np.ndarray:
    """(K,) index of each class of the predictions among ``label_names``, -1: not there."""
    index = {name: i for i, name in enumerate(label_names)}
    label = np.array([index.get(name, -1) for name in predictions.label_names], dtype=np.int64)
    unknown = np.flatnonzero(label < 0)
    if other_classes == 'error' and len(unknown):
        used = unknown[np.isin(unknown, predictions.label)]
        if len(used):
            name = predictions.label_names[used[0]]
            raise AnnotationError(
                f'{predictions.path}: holds detections of class {name!r}, which is not among the classes annotated; '
                "give the annotations that belong to it, or leave these out with other_classes='drop' "
                '(--other-classes drop)'
            )
    return label
