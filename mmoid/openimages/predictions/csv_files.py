"""Reading predictions of any detector from CSV files, in the two formats in use.

A row for each detection, as the official evaluator takes them::

    ImageID,LabelName,Score,XMin,XMax,YMin,YMax

A row for each image, as the challenge takes them, with ``{Label Confidence XMin YMin XMax YMax}`` for each detection::

    ImageId,PredictionString
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.image_ids import number_images
from mmoid.openimages.predictions.prediction_store import Predictions, PredictionStore
from mmoid.openimages.readers.csv_files import (
    COORDINATES,
    TEXT,
    line_of_row,
    read_columns,
    read_header,
    unreadable,
)

_BLOCK_BYTES = 8 << 20
"""Read at a time. A row must fit: some 130,000 detections of one image."""

_Columns: TypeAlias = tuple[pa.ChunkedArray, np.ndarray, pa.DictionaryArray, np.ndarray, np.ndarray]
"""Of R rows: ids (R,), number of detections (R,); of all detections: MIDs (D,), score (D,), box (D, 4)."""


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
    if 'PredictionString' in header:
        ids, counts, mids, score, box = _read_strings(path, image_column)
    elif 'LabelName' in header:
        ids, counts, mids, score, box = _read_rows(path, image_column)
    else:
        expected = "'LabelName', 'Score', 'XMin', ... or 'PredictionString'"
        raise AnnotationError(f'{path}:1: expected the columns {expected}; it has {", ".join(header)}')
    classes = classes or ClassNames(tuple(mids.dictionary.to_pylist()))
    label = classes.find(mids)
    known = label >= 0
    if other_classes == 'error' and not known.all():
        k = int(np.argmin(known))
        line = line_of_row(path, _row_of_detection(counts, k))
        remedy = 'give the classes of these predictions, or leave such detections out with --other-classes drop'
        raise classes.unknown(mids[k].as_py(), f'{path}:{line}', remedy)
    distinct, image_of_row, _ = number_images(ids)
    image = np.repeat(image_of_row, counts)[known]
    label, score, box = label[known], score[known], box[known]
    if (np.diff(image_of_row) < 0).any():
        order = np.argsort(image, kind='stable')
        label, score, box = label[order], score[order], box[order]
    return Predictions(
        path=Path(path),
        label_names=classes.label_names,
        class_names=classes.display_names,
        ids=distinct,
        detection_stop=np.cumsum(np.bincount(image, minlength=len(distinct))),
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


def _read_rows(path: str | Path, image_column: str) -> _Columns:
    types = {image_column: pa.string(), 'LabelName': TEXT, **dict.fromkeys(('Score', *COORDINATES), pa.float64())}
    table = read_columns(path, types)
    score = table['Score'].to_numpy()
    box = np.stack([table[name].to_numpy() for name in COORDINATES], axis=1)
    _require_plausible(score, box, lambda k: f'{path}:{line_of_row(path, k)}')
    mids = pa.chunked_array([pa.array([], TEXT), *table['LabelName'].chunks]).combine_chunks()
    return table[image_column], np.ones(len(table), dtype=np.int64), mids, score, box


def _read_strings(path: str | Path, image_column: str) -> _Columns:
    """Reads and parses a file block by block, so that its text never lies in memory as a whole."""
    types = {image_column: pa.string(), 'PredictionString': pa.string()}
    read_options = pa_csv.ReadOptions(block_size=_BLOCK_BYTES)
    convert_options = pa_csv.ConvertOptions(column_types=types, include_columns=list(types))
    empty = (pa.array([], pa.string()), np.empty(0, np.int64), pa.array([], TEXT), np.empty(0), np.empty((0, 4)))
    parts = [empty]
    first = 0
    try:
        for batch in pa_csv.open_csv(path, read_options, convert_options=convert_options):
            parts.append((batch[image_column], *_parse_strings(path, first, batch['PredictionString'])))
            first += len(batch)
    except (OSError, pa.ArrowInvalid) as error:
        raise unreadable(path, types, error) from error
    ids, counts, mids, score, box = zip(*parts)
    all_ids = pa.chunked_array(ids)
    number = number_images(all_ids)[1]
    repeated = number != np.arange(len(number))
    if repeated.any():
        row = int(np.argmax(repeated))
        line, before = line_of_row(path, row), line_of_row(path, int(number[row]))
        raise AnnotationError(f'{path}:{line}: image {all_ids[row].as_py()!r} is already on line {before}')
    all_mids = pa.chunked_array(mids).combine_chunks()
    return all_ids, np.concatenate(counts), all_mids, np.concatenate(score), np.concatenate(box)


def _parse_strings(
    path: str | Path, first: int, texts: pa.Array
) -> tuple[np.ndarray, pa.DictionaryArray, np.ndarray, np.ndarray]:
    """Counts (n,), MIDs (d,), scores (d,) and boxes (d, 4) of n PredictionStrings, counted from row ``first``."""
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

    def place_of(detection: int) -> str:
        row = _row_of_detection(counts, detection)
        nth = detection - int(counts[:row].sum()) + 1
        return f'{path}:{line_of_row(path, first + row)}: detection {nth}'

    flat = words.flatten()
    start = np.arange(0, len(flat), 6)
    numbers: np.ndarray = np.empty((len(start), 5))
    for k, name in enumerate(('Confidence', *COORDINATES)):
        column = flat.take(pa.array(start + 1 + k))
        try:
            numbers[:, k] = pc.cast(column, pa.float64())
        except pa.ArrowInvalid:
            detection, text = next((i, text) for i, text in enumerate(column.to_pylist()) if not _is_number(text))
            raise AnnotationError(f'{place_of(detection)}: {name} = {text!r} is not a number') from None
    score, box = numbers[:, 0], numbers[:, 1:]
    _require_plausible(score, box, place_of)
    return counts, flat.take(pa.array(start)).dictionary_encode(), score, box


def _row_of_detection(counts: np.ndarray, detection: int) -> int:
    return int(np.searchsorted(np.cumsum(counts), detection, side='right'))


def _require_plausible(score: np.ndarray, box: np.ndarray, place_of: Callable[[int], str]) -> None:
    """Raises for the first score that is not finite, or the first box in pixels."""
    finite = np.isfinite(score)
    if not finite.all():
        k = int(np.argmin(finite))
        raise AnnotationError(f'{place_of(k)}: Score = {score[k]:g} must be a finite number')
    # Models put corners a little outside the image. Anything farther is pixels.
    near = (box >= -1) & (box <= 2)
    if not near.all():
        k, side = divmod(int(np.argmin(near)), 4)
        value = f'{COORDINATES[side]} = {box[k, side]:g}'
        raise AnnotationError(
            f'{place_of(k)}: {value} is far outside [0, 1]; coordinates are fractions of the image size'
        )


def _is_number(text: str) -> bool:
    try:
        pa.scalar(text).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True
