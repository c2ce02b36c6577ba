"""Reading predictions of any detector from CSV files, in the two formats in use.

A row for each detection, as the official evaluator takes them::

    ImageID,LabelName,Score,XMin,XMax,YMin,YMax

A row for each image, as the challenge takes them, with ``{Label Confidence XMin YMin XMax YMax}`` for each detection::

    ImageId,PredictionString
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions.prediction_store import Predictions, PredictionStore
from mmoid.openimages.readers.csv_files import (
    COORDINATES,
    TEXT,
    line_of_row,
    number_rows,
    read_columns,
    read_header,
    unreadable,
)

_BLOCK_BYTES = 8 << 20
"""Read at a time. A row must fit: some 130,000 detections of one image."""

_Columns: TypeAlias = tuple[pa.Array, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Ids (N,), counts (N,), label (D,), score (D,), box (D, 4)."""


def open_predictions(
    path: str | Path, classes: ClassNames | None = None, other_classes: Literal['error', 'drop'] = 'error'
) -> Predictions:
    """Opens a :class:`PredictionStore` if ``path`` is a folder, else reads a CSV file (:func:`read_predictions`)."""
    return PredictionStore(path) if Path(path).is_dir() else read_predictions(path, classes, other_classes)


def read_predictions(
    path: str | Path, classes: ClassNames | None = None, other_classes: Literal['error', 'drop'] = 'error'
) -> Predictions:
    """Reads a prediction CSV of either format, ``.csv`` or ``.csv.gz``.

    Args:
        path: The file.
        classes: The classes by index; None: those in the file, in order of appearance.
        other_classes: What to do with detections that are not of ``classes``: raise, or leave them out.

    Raises:
        AnnotationError: Neither format, a row that does not parse, a score that is not finite, a coordinate below -1
            or above 2, an unknown class, two submission rows of one image.
    """
    header = read_header(path)
    image_column = image_column_of(path, header)
    column = _ClassColumn(path, classes, drop=other_classes == 'drop')
    if 'PredictionString' in header:
        ids, counts, label, score, box = _read_submission(path, image_column, column)
    elif 'LabelName' in header:
        ids, counts, label, score, box = _read_rows(path, image_column, column)
    else:
        expected = "'LabelName', 'Score', 'XMin', ... or 'PredictionString'"
        raise AnnotationError(f'{path}:1: expected the columns {expected}; it has {", ".join(header)}')
    known = label >= 0
    if not known.all():
        image = np.repeat(np.arange(len(counts)), counts)
        counts = np.bincount(image[known], minlength=len(counts))
        label, score, box = label[known], score[known], box[known]
    return Predictions(
        path=Path(path),
        label_names=column.classes.label_names,
        class_names=column.classes.display_names,
        ids=ids,
        detection_stop=np.cumsum(counts),
        label=label,
        score=score,
        box=box,
        dropped=int((~known).sum()),
    )


def read_image_list(path: str | Path) -> list[str]:
    """Reads the images of a CSV with a column ``ImageID`` or ``ImageId``, each once, in their order."""
    column = image_column_of(path, read_header(path))
    return pc.unique(read_columns(path, {column: pa.string()})[column]).to_pylist()


def image_column_of(path: str | Path, header: Sequence[str]) -> str:
    """Name of the column of ImageIDs."""
    for name in ('ImageID', 'ImageId'):
        if name in header:
            return name
    raise AnnotationError(f'{path}:1: has no column ImageID or ImageId; it has {", ".join(header)}')


class _ClassColumn:
    """Class indices of MIDs in a file. Without given classes each new MID gets the next index."""

    def __init__(self, path: str | Path, classes: ClassNames | None, drop: bool) -> None:
        self.path = path
        self.classes = classes or ClassNames(())
        self._grows, self._drop = classes is None, drop

    def find(self, mids: pa.DictionaryArray, row_of: np.ndarray) -> np.ndarray:
        """(d,) int32 class indices; -1: to be dropped. ``row_of`` (d,) are the rows of the file, for errors."""
        if self._grows:
            self.classes = ClassNames(tuple(dict.fromkeys((*self.classes.label_names, *mids.dictionary.to_pylist()))))
        label = self.classes.find(mids)
        if not self._drop and (label < 0).any():
            k = int(np.argmax(label < 0))
            where = f'{self.path}:{line_of_row(self.path, int(row_of[k]))}'
            remedy = 'give the classes of these predictions, or leave such detections out with --other-classes drop'
            raise self.classes.unknown(mids[k].as_py(), where, remedy)
        return label


def _read_rows(path: str | Path, image_column: str, class_column: _ClassColumn) -> _Columns:
    types = {image_column: pa.string(), 'LabelName': TEXT, **dict.fromkeys(('Score', *COORDINATES), pa.float64())}
    table = read_columns(path, types)
    score = table['Score'].to_numpy()
    box = np.stack([table[name].to_numpy() for name in COORDINATES], axis=1)
    fault = _first_fault(score, box)
    if fault:
        raise AnnotationError(f'{path}:{line_of_row(path, fault[0])}: {fault[1]}')
    names = table['LabelName'].combine_chunks() if len(table) else pa.array([], pa.string()).dictionary_encode()
    label = class_column.find(names, np.arange(len(table)))
    ids, image = number_rows(table[image_column])
    counts = np.bincount(image, minlength=len(ids))
    order = np.argsort(image, kind='stable')
    return ids, counts, label[order], score[order], box[order]


def _read_submission(path: str | Path, image_column: str, class_column: _ClassColumn) -> _Columns:
    """Reads and parses a file block by block, so that its text never lies in memory as a whole."""
    types = {image_column: pa.string(), 'PredictionString': pa.string()}
    empty = (pa.array([], pa.string()), np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0), np.empty((0, 4)))
    parts: list[_Columns] = [empty]
    first = 0
    try:
        reader = pa_csv.open_csv(
            path,
            read_options=pa_csv.ReadOptions(block_size=_BLOCK_BYTES),
            convert_options=pa_csv.ConvertOptions(column_types=types, include_columns=list(types)),
        )
        for batch in reader:
            if len(batch):
                counts, names, score, box = _parse_strings(path, first, batch['PredictionString'])
                label = class_column.find(names.dictionary_encode(), first + np.repeat(np.arange(len(batch)), counts))
                parts.append((batch[image_column], counts, label, score, box))
            first += len(batch)
    except (OSError, pa.ArrowInvalid) as error:
        raise unreadable(path, types, error) from error
    all_ids, *columns = zip(*parts)
    ids = pa.concat_arrays(all_ids)
    distinct, number = number_rows(pa.chunked_array([ids]))
    if len(distinct) < len(ids):
        row = int(np.argmax(number != np.arange(len(number))))
        line, before = line_of_row(path, row), line_of_row(path, int(number[row]))
        raise AnnotationError(f'{path}:{line}: image {ids[row].as_py()!r} is already on line {before}')
    counts, label, score, box = (np.concatenate(column) for column in columns)
    return ids, counts, label, score, box


def _parse_strings(
    path: str | Path, first: int, texts: pa.Array
) -> tuple[np.ndarray, pa.Array, np.ndarray, np.ndarray]:
    """Parses some PredictionStrings.

    Args:
        path: The file, for errors.
        first: Row of the first text in the file, from 0.
        texts: (n,) strings.

    Returns:
        (n,) counts, (d,) MIDs, (d,) scores, (d, 4) boxes.
    """
    texts = pc.ascii_trim_whitespace(texts)
    # '' would split into one empty word, null splits into none.
    words = pc.ascii_split_whitespace(pc.if_else(pc.equal(texts, ''), pa.scalar(None, pa.string()), texts))
    lengths = pc.list_value_length(words).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if (lengths % 6).any():
        row = int(np.argmax(lengths % 6 > 0))
        raise AnnotationError(
            f'{path}:{line_of_row(path, first + row)}: PredictionString has {lengths[row]} values, not a multiple of '
            '6; expected {Label Confidence XMin YMin XMax YMax} for each detection'
        )
    counts = lengths // 6

    def error(detection: int, fault: str) -> AnnotationError:
        row = int(np.searchsorted(np.cumsum(counts), detection, side='right'))
        nth = detection - int(counts[:row].sum()) + 1
        return AnnotationError(f'{path}:{line_of_row(path, first + row)}: detection {nth}: {fault}')

    flat = words.flatten()
    start = np.arange(0, len(flat), 6)
    numbers: np.ndarray = np.empty((len(start), 5))
    for k, name in enumerate(('Confidence', *COORDINATES)):
        column = flat.take(pa.array(start + 1 + k))
        try:
            numbers[:, k] = pc.cast(column, pa.float64())
        except pa.ArrowInvalid:
            detection, text = next((i, text) for i, text in enumerate(column.to_pylist()) if not _is_number(text))
            raise error(detection, f'{name} = {text!r} is not a number') from None
    score, box = numbers[:, 0], numbers[:, 1:]
    fault = _first_fault(score, box)
    if fault:
        raise error(*fault)
    return counts, flat.take(pa.array(start)), score, box


def _first_fault(score: np.ndarray, box: np.ndarray) -> tuple[int, str] | None:
    """The first detection that cannot be meant, and what is wrong with it."""
    finite = np.isfinite(score)
    if not finite.all():
        k = int(np.argmin(finite))
        return k, f'Score = {score[k]:g} must be a finite number'
    # Models put corners a little outside the image. Anything farther is pixels.
    near = (box >= -1) & (box <= 2)
    if not near.all():
        k, side = divmod(int(np.argmin(near)), 4)
        value = f'{COORDINATES[side]} = {box[k, side]:g}'
        return k, f'{value} is far outside [0, 1]; coordinates are fractions of the image size'
    return None


def _is_number(text: str) -> bool:
    try:
        pa.scalar(text).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True
