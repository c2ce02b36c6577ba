"""Predictions as CSV files, of anybody's detector, in the two formats that are in use.

A row for each detection, as the official evaluator takes them::

    ImageID,LabelName,Score,XMin,XMax,YMin,YMax

A row for each image, as the challenge takes them, ``{Label Confidence XMin YMin XMax YMax}`` again and again::

    ImageId,PredictionString
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions.prediction_store import PredictionStore, write_predictions
from mmoid.openimages.predictions.submission_rows import first_fault, image_column_of, submission_texts
from mmoid.openimages.readers.csv_files import COORDINATES, TEXT, line_of_row, number_rows, read_columns, read_header


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """Predictions in memory, with the columns and methods of a :class:`PredictionStore`, image after image.

    Attributes:
        path: Where they come from.
        label_names: MIDs by class index.
        label: (D,) int32 class indices.
        score: (D,) float64, as the file has them.
        box: (D, 4) float64: xmin, ymin, xmax, ymax as fractions of the image size.
        detection_stop: (N,) int64: end of each image's slice of the above.
        ids: (N,) ImageIDs.
        dropped: Detections of other classes that were left out.
    """

    path: Path
    label_names: tuple[str, ...]
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray
    detection_stop: np.ndarray
    ids: pa.Array
    dropped: int = 0

    @property
    def num_images(self) -> int:
        """N, images without detections included as far as the file names them."""
        return len(self.ids)

    def image_ids(self) -> list[str]:
        """ImageIDs by image index."""
        return self.ids.to_pylist()


PredictionSet: TypeAlias = PredictionStore | PredictionTable


def open_predictions(
    path: str | Path, label_names: Sequence[str] | None = None, other_classes: Literal['error', 'drop'] = 'error'
) -> PredictionSet:
    """Opens a folder of :func:`write_predictions`, or reads a CSV file; see :func:`read_predictions`."""
    return PredictionStore(path) if Path(path).is_dir() else read_predictions(path, label_names, other_classes)


def read_predictions(
    path: str | Path, label_names: Sequence[str] | None = None, other_classes: Literal['error', 'drop'] = 'error'
) -> PredictionTable:
    """Reads a prediction CSV of either format, ``.csv`` or ``.csv.gz``.

    Args:
        path: The file.
        label_names: The classes by index; None: those that the file names, in the order in which it does.
        other_classes: What to do with detections of classes not in ``label_names``: raise, or leave them out.

    Raises:
        AnnotationError: Neither format, a row that does not parse, a score that is not finite, a coordinate below -1
            or above 2, a class that is not known, an image with two rows of a submission.
    """
    header = read_header(path)
    image_column = image_column_of(path, header)
    classes = _Classes(path, label_names, drop=other_classes == 'drop')
    if 'PredictionString' in header:
        ids, counts, label, score, box = _read_submission(path, classes)
    elif 'LabelName' in header:
        ids, counts, label, score, box = _read_rows(path, image_column, classes)
    else:
        raise AnnotationError(
            f"{path}:1: expected the columns 'LabelName', 'Score', 'XMin', ... or 'PredictionString'; "
            f'it has {", ".join(header)}'
        )
    known = label >= 0
    if not known.all():
        image = np.repeat(np.arange(len(counts)), counts)
        counts = np.bincount(image[known], minlength=len(counts))
        label, score, box = label[known], score[known], box[known]
    dropped = len(known) - int(known.sum())
    return PredictionTable(Path(path), tuple(classes.names), label, score, box, np.cumsum(counts), ids, dropped)


def convert_predictions(
    path: str | Path,
    out: str | Path,
    label_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Prediction CSV -> :class:`PredictionStore`, which keeps scores in float32.

    Args:
        path: The file; see :func:`read_predictions`.
        out: The new folder.
        label_names: The classes by index; None: those that the file names.
        class_names: Their display names; None: the MIDs.
        overwrite: Replace predictions that are there.
    """
    table = read_predictions(path, label_names)
    write_predictions(
        out,
        image_ids=table.image_ids(),
        detections_per_image=np.diff(table.detection_stop, prepend=0),
        label=table.label,
        score=table.score,
        box=table.box,
        label_names=table.label_names,
        class_names=table.label_names if class_names is None else class_names,
        overwrite=overwrite,
    )


class _Classes:
    """Class indices of names; -1: left out. Without given names every new one gets the next index."""

    def __init__(self, path: str | Path, names: Sequence[str] | None, drop: bool) -> None:
        self.path = path
        self.names = [] if names is None else list(names)
        self._index = {name: i for i, name in enumerate(self.names)}
        self._grows, self._drop = names is None, drop

    def number(self, column: pa.DictionaryArray) -> np.ndarray:
        """(d,) int32."""
        index = np.array([self._index_of(name) for name in column.dictionary.to_pylist()], dtype=np.int32)
        return index[column.indices.to_numpy()]

    def require(self, label: np.ndarray, names: pa.DictionaryArray, row_of: np.ndarray | None, first: int = 0) -> None:
        """Raises for the first class that is not known; ``row_of`` (d,) is the file's row, counted from ``first``."""
        if self._drop or (label >= 0).all():
            return
        k = int(np.argmax(label < 0))
        row = first + (k if row_of is None else int(row_of[k]))
        raise AnnotationError(
            f'{self.path}:{line_of_row(self.path, row)}: LabelName {names[k].as_py()!r} is not among the classes; give '
            "the classes that belong to these predictions, or leave such detections out with other_classes='drop' "
            '(--other-classes drop)'
        )

    def _index_of(self, name: str) -> int:
        if self._grows and name not in self._index:
            self._index[name] = len(self.names)
            self.names.append(name)
        return self._index.get(name, -1)


_Columns: TypeAlias = tuple[pa.Array, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Ids (N,), counts (N,), label (D,), score (D,), box (D, 4)."""


def _read_rows(path: str | Path, image_column: str, classes: _Classes) -> _Columns:
    types = {image_column: pa.string(), 'LabelName': TEXT, **dict.fromkeys(('Score', *COORDINATES), pa.float64())}
    table = read_columns(path, types)
    score = table['Score'].to_numpy()
    box = np.stack([table[name].to_numpy() for name in COORDINATES], axis=1)
    fault = first_fault(score, box)
    if fault:
        raise AnnotationError(f'{path}:{line_of_row(path, fault[0])}: {fault[1]}')
    names = table['LabelName'].combine_chunks() if len(table) else pa.array([], pa.string()).dictionary_encode()
    label = classes.number(names)
    classes.require(label, names, None)
    ids, image = number_rows(table[image_column])
    counts = np.bincount(image, minlength=len(ids))
    if (image[1:] < image[:-1]).any():
        order = np.argsort(image, kind='stable')
        label, score, box = label[order], score[order], box[order]
    return ids, counts, label, score, box


def _read_submission(path: str | Path, classes: _Classes) -> _Columns:
    ids, counts = [pa.array([], pa.string())], [np.empty(0, dtype=np.int64)]
    label, score, box = [np.empty(0, dtype=np.int32)], [np.empty(0)], [np.empty((0, 4))]
    first = 0
    for text in submission_texts(path):
        rows = text.parse()
        names = rows.label_name.dictionary_encode()
        label.append(classes.number(names))
        classes.require(label[-1], names, np.repeat(np.arange(len(rows.counts)), rows.counts), first)
        ids.append(rows.image_ids)
        counts.append(rows.counts)
        score.append(rows.score)
        box.append(rows.box)
        first += len(rows.counts)
    all_ids = pa.concat_arrays(ids)
    distinct, number = number_rows(pa.chunked_array([all_ids]))
    if len(distinct) < len(all_ids):
        row = int(np.argmax(number != np.arange(len(number))))
        line, before = line_of_row(path, row), line_of_row(path, int(number[row]))
        raise AnnotationError(f'{path}:{line}: image {all_ids[row].as_py()!r} stands on line {before} already')
    return all_ids, _join(counts), _join(label), _join(score), _join(box)


def _join(parts: list[np.ndarray]) -> np.ndarray:
    joined = np.concatenate(parts)
    parts.clear()  # both at once are needed for one column only
    return joined
