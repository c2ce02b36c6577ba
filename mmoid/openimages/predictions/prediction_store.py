"""PredictionStore: the detections of one model on a set of images, as memory-mapped Arrow files in one folder.

::

    metadata.json       format, version, label_names, class_names
    images.arrow        N rows: image_id, detection_stop
    detections.arrow    D rows: label, score, box [xmin, ymin, xmax, ymax] as fractions of the image size; image after
                        image, best score first as the model gave them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from mmoid.openimages.boxes import has_area
from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.image_ids import match_images_once
from mmoid.openimages.ragged import gather_rows, row_and_position
from mmoid.openimages.readers.csv_files import COORDINATES
from mmoid.openimages.store.arrow_folder import METADATA, column, map_tables, read_metadata, write_folder, write_tables
from mmoid.openimages.store.summary import Summary

SCHEMAS = {
    'images': pa.schema({'image_id': pa.string(), 'detection_stop': pa.int64()}),
    'detections': pa.schema({'label': pa.int32(), 'score': pa.float32(), 'box': pa.list_(pa.float64(), 4)}),
}
FORMAT = 'mmoid-predictions'
VERSION = 1
ROUNDING = 1e-3
"""Scores this much outside [0, 1] are taken for 0 or 1."""
LEAVE_OUT = 'give the classes of these predictions; mmoid evaluate --other-classes drop leaves such detections out'


class Detections(NamedTuple):
    """D detections on some images."""

    image: np.ndarray  # (D,) int64 index of the image, from 0 and ascending
    label: np.ndarray  # (D,) int class indices
    score: np.ndarray  # (D,)
    box: np.ndarray  # (D, 4) float64 xmin, ymin, xmax, ymax as fractions of the image size

    def take(self, rows: np.ndarray | slice) -> Detections:
        """Some of the detections."""
        return Detections(*(column[rows] for column in self))

    def best_first(self, max_per_image: int | None = None) -> Detections:
        """The best detections of each image (None: all), the best first; of equal scores the first stays first."""
        order = np.lexsort((-self.score, self.image))
        if max_per_image is not None:
            order = order[row_and_position(np.bincount(self.image))[1] < max_per_image]
        return self.take(order)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Detections of some images, image after image."""

    path: Path  # file or folder that they come from
    label_names: tuple[str, ...]  # MIDs by class index
    class_names: tuple[str, ...]  # display names by class index
    ids: pa.Array  # (N,) ImageIDs, those of images without detections included
    detection_stop: np.ndarray  # (N,) int64 end of each image's detections
    label: np.ndarray  # (D,) int32 class indices
    score: np.ndarray  # (D,) float32 or float64
    box: np.ndarray  # (D, 4) float64 xmin, ymin, xmax, ymax as fractions of the image size
    summary: Summary = field(default_factory=Summary)  # detections that were dropped or changed while reading
    lists_images: bool = True  # false: a CSV with a row for each detection, so none for images without detections

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.ids)

    def replace(self, **columns: Any) -> Predictions:
        """The same with some other attributes."""
        return Predictions(**(vars(self) | columns))

    def image_ids(self) -> list[str]:
        """ImageIDs by image index."""
        return self.ids.to_pylist()

    def without_detections(self, fault: str, counts: Mapping[str, int] | None = None) -> AnnotationError:
        """The error for predictions of which nothing is left, with the counts, or with those of the summary."""
        listed = '; '.join(f'{count} {reason}' for reason, count in (counts or self.counts()).items() if count)
        return AnnotationError(f'{self.path}: {fault}' + (f' ({listed})' if listed else ''))

    def counts(self) -> dict[str, int]:
        """Detections that were left out or changed while reading, by description."""
        left_out = {f'left out: {reason}': count for reason, count in self.summary.by_reason('dropped').items()}
        return left_out | self.summary.by_reason('changed')

    def image_of_detection(self) -> np.ndarray:
        """(D,) int64 image index of every detection; computed, not mapped."""
        return np.repeat(np.arange(self.num_images), np.diff(self.detection_stop, prepend=0))

    def detections(self, images: np.ndarray) -> Detections:
        """Those on (n,) images, given by index; -1: an image without detections."""
        counts, rows = gather_rows(self.detection_stop, images)
        image = np.repeat(np.arange(len(images)), counts)
        return Detections(image, self.label[rows], self.score[rows], self.box[rows])


class PredictionStore(Predictions):
    """Predictions in a folder that ``tools/test.py --out`` wrote, memory-mapped. Scores are float32.

    Args:
        path: The folder.

    Raises:
        AnnotationError: Not such a folder.

    Examples:
        >>> store = PredictionStore('work_dirs/mine/predictions')
        >>> rows = slice(store.detection_stop[6], store.detection_stop[7])
        >>> store.image_ids()[7], store.label[rows], store.score[rows], store.box[rows]
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        metadata = read_metadata(path, FORMAT, VERSION, 'mmoid test --out')
        tables = map_tables(path, SCHEMAS)
        names: list[Any] = [metadata.get(key) for key in ('label_names', 'class_names')]
        if not all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in names):
            raise AnnotationError(f'{path / METADATA}: has no label_names or class_names; make {path} again')
        label_names, class_names = names
        super().__init__(
            path=path,
            label_names=ClassNames(label_names, class_names, str(path)).label_names,
            class_names=tuple(class_names),
            ids=tables['images']['image_id'].combine_chunks(),
            detection_stop=column(tables['images'], 'detection_stop'),
            label=column(tables['detections'], 'label'),
            score=column(tables['detections'], 'score'),
            box=column(tables['detections'], 'box'),
        )
        counts = np.diff(self.detection_stop, prepend=0)
        if (counts < 0).any() or counts.sum() != len(self.label):
            raise AnnotationError(f'{path}: images.arrow and detections.arrow do not fit each other; make {path} again')
        if len(class_names) != len(label_names) or not ((self.label >= 0) & (self.label < len(label_names))).all():
            raise AnnotationError(f'{path}: its labels are not those of {METADATA}; make {path} again')

    def __reduce__(self) -> tuple[type[PredictionStore], tuple[Path]]:
        return PredictionStore, (self.path,)


def write_predictions(
    path: str | Path,
    *,
    image_ids: Sequence[str],
    detections_per_image: np.ndarray,
    label: np.ndarray,
    score: np.ndarray,
    box: np.ndarray,
    label_names: Sequence[str],
    class_names: Sequence[str],
    overwrite: bool = False,
) -> None:
    """Writes a :class:`PredictionStore`, atomically.

    Args:
        path: The new folder.
        image_ids: N ids.
        detections_per_image: (N,) counts; the other columns hold image after image.
        label: (D,) class indices.
        score: (D,), kept in float32.
        box: (D, 4) xmin, ymin, xmax, ymax as fractions of the image size.
        label_names: MIDs by class index.
        class_names: Display names by class index.
        overwrite: Replace predictions that are there.
    """
    flat_box = pa.array(np.ascontiguousarray(box, dtype=np.float64).reshape(-1))
    columns = {
        'label': np.asarray(label, dtype=np.int32),
        'score': np.asarray(score, dtype=np.float32),
        'box': pa.FixedSizeListArray.from_arrays(flat_box, 4),
    }
    stop = np.cumsum(detections_per_image, dtype=np.int64)
    images = {'image_id': pa.array(image_ids, pa.string()), 'detection_stop': stop}
    metadata = {'label_names': list(label_names), 'class_names': list(class_names)}
    with write_folder(path, overwrite) as folder:
        write_tables(folder, {'images': pa.table(images), 'detections': pa.table(columns)}, FORMAT, VERSION, metadata)


def check_detections(
    score: np.ndarray,
    box: np.ndarray,
    place: str | Callable[[int], str],
    summary: Summary,
    max_score: float = 1.0,
    farthest: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Clips scores to [0, 1]; finds boxes without area or with swapped corners.

    Boxes that are partly outside the image stay as they are: the official metric does not clip them.

    Args:
        score: (D,).
        box: (D, 4) xmin, ymin, xmax, ymax as fractions of the image size.
        place: For messages: file or image, or a function from the index of a detection to its file and line.
        summary: Counts both, as dropped and changed.
        max_score: inf: scores above 1 are fine.
        farthest: How far outside the image a coordinate may be. Models put corners a little outside; anything farther
            in a file is pixels.

    Returns:
        (D,) scores, and (D,) bool: boxes with area.

    Raises:
        AnnotationError: A score or coordinate that is not finite, a score outside [0, 1] by more than rounding, a
            coordinate too far outside the image.
    """

    def place_of(row: np.intp) -> str:
        return place if isinstance(place, str) else place(int(row))

    def require(holds: np.ndarray, name: str, values: np.ndarray, complaint: str) -> None:
        if not holds.all():
            row = np.argmin(holds)
            raise AnnotationError(f'{place_of(row)}: {name} = {values[row]:.9g} {complaint}')

    require(np.isfinite(score), 'Score', score, 'must be a finite number')
    require((score >= -ROUNDING) & (score <= max_score + ROUNDING), 'Score', score, 'is outside [0, 1]')
    for name, values in zip(COORDINATES, box.T):
        near = (values >= -farthest) & (values <= 1 + farthest)
        require(near, name, values, 'is far outside [0, 1]; coordinates are fractions of the image size')
    rounded, kept = np.clip(score, 0, max_score), has_area(box)
    for add, reason, rows in (
        (summary.drop, 'without area or with swapped corners', ~kept),
        (summary.change, 'scores outside [0, 1] by rounding, clipped', rounded != score),
    ):
        if rows.any():
            add(reason, rows.sum(), place_of(np.argmax(rows)))
    return rounded, kept


def align_predictions(
    predictions: Predictions,
    image_ids: Sequence[str],
    classes: ClassNames,
    other_classes: Literal['error', 'drop'] = 'error',
) -> tuple[Predictions, np.ndarray]:
    """The detections on annotated images, of annotated classes, with the ids and class indices of the annotations.

    Args:
        predictions: Matched to the annotations by ImageID and MID.
        image_ids: Annotated images.
        classes: Annotated classes.
        other_classes: What to do with detections of other classes: raise, or leave them out.

    Returns:
        The predictions, whose summary counts what was left out; and (N,) index into ``image_ids`` of their N images.

    Raises:
        AnnotationError: Detections of another class, an image that occurs twice, no detection that is left.
    """
    path, annotated = str(predictions.path), pa.array(image_ids, pa.string())
    image_of = match_images_once(predictions.ids, annotated, path)
    label_of = classes.find(pa.array(predictions.label_names, pa.string()))
    counts, known = np.diff(predictions.detection_stop, prepend=0), image_of >= 0
    on_image, of_class = np.repeat(known, counts), (label_of >= 0)[predictions.label]
    summary = deepcopy(predictions.summary)
    if not of_class.all() and other_classes == 'error':
        raise classes.unknown(predictions.label_names[predictions.label[of_class.argmin()]], path, LEAVE_OUT)
    others = np.flatnonzero(on_image & ~of_class)
    if len(others):
        summary.drop('of other classes', len(others), predictions.label_names[predictions.label[others[0]]])
    elsewhere = np.flatnonzero(~known & (counts > 0))
    if len(elsewhere):
        first = predictions.ids[int(elsewhere[0])].as_py()
        summary.drop('on images that are not annotated', counts[elsewhere].sum(), first)
    kept = on_image & of_class
    if not kept.any():
        raise predictions.replace(summary=summary).without_detections(
            f'has no detection of an annotated class on the {len(annotated)} annotated images, first '
            f'{next(iter(image_ids), None)!r}, of which it has {known.sum()}; give the split that was predicted'
        )
    stop = np.append(0, np.cumsum(kept))[predictions.detection_stop]
    rows = slice(None) if kept.all() else kept  # a copy only where detections are left out
    aligned = predictions.replace(
        label_names=classes.label_names,
        class_names=classes.display_names,
        ids=annotated.take(pa.array(image_of[known])),
        detection_stop=stop[known],
        label=label_of[predictions.label[rows]],
        score=predictions.score[rows],
        box=predictions.box[rows],
        summary=summary,
    )
    return aligned, image_of[known]
