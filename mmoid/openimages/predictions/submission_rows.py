"""Rows of a challenge submission, ``ImageId,PredictionString``, read and written as arrays.

The string is ``{Label Confidence XMin YMin XMax YMax}`` for each detection, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.csv_files import COORDINATES, first_bad_row, line_of_row, read_header

IMAGE_COLUMNS = ('ImageID', 'ImageId')
"""Both spellings occur in both formats."""

VALUES = 6
"""Label, confidence and four coordinates."""

_BLOCK_BYTES = 8 << 20  # a row must fit: some 130,000 detections of one image


@dataclass(frozen=True, eq=False)
class SubmissionRows:
    """Some rows of a submission.

    Attributes:
        image_ids: (n,) strings.
        counts: (n,) detections of each.
        label_name: (d,) strings, image after image.
        score: (d,) float64.
        box: (d, 4) float64.
    """

    image_ids: pa.Array
    counts: np.ndarray
    label_name: pa.Array
    score: np.ndarray
    box: np.ndarray


@dataclass(frozen=True, eq=False)
class SubmissionText:
    """Some rows of a submission as they stand in the file: ids (n,), texts (n,), and which row of it the first is."""

    path: Path
    first: int
    image_ids: pa.Array
    texts: pa.Array

    def parse(self) -> SubmissionRows:
        """Takes the texts apart.

        Raises:
            AnnotationError: By file and line: values that are not in sixes, not numbers, or that cannot be meant.
        """
        texts = pc.ascii_trim_whitespace(self.texts)
        # Splitting '' gives one empty text; null gives nothing.
        words = pc.ascii_split_whitespace(pc.if_else(pc.equal(texts, ''), pa.scalar(None, pa.string()), texts))
        lengths = pc.list_value_length(words).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        if (lengths % VALUES).any():
            row = int(np.argmax(lengths % VALUES > 0))
            raise AnnotationError(
                f'{self._line(row)}: PredictionString holds {lengths[row]} values, which is no multiple of {VALUES}; '
                'expected {Label Confidence XMin YMin XMax YMax} for each detection'
            )
        counts = lengths // VALUES
        flat = words.flatten()
        places = np.arange(0, len(flat), VALUES)
        numbers: np.ndarray = np.empty((VALUES - 1, len(places)))
        for k, name in enumerate(('Confidence', *COORDINATES)):
            column = flat.take(pa.array(places + 1 + k))
            try:
                numbers[k] = pc.cast(column, pa.float64()).to_numpy()
            except pa.ArrowInvalid as error:
                detection, text = next((i, text) for i, text in enumerate(column.to_pylist()) if not _is_number(text))
                raise self._fault(counts, detection, f'{name} = {text!r} is not a number') from error
        score, box = numbers[0], np.ascontiguousarray(numbers[1:].T)
        fault = first_fault(score, box)
        if fault:
            raise self._fault(counts, *fault)
        return SubmissionRows(self.image_ids, counts, flat.take(pa.array(places)), score, box)

    def _fault(self, counts: np.ndarray, detection: int, complaint: str) -> AnnotationError:
        row = int(np.searchsorted(np.cumsum(counts), detection, side='right'))
        nth = detection - int(counts[:row].sum()) + 1
        return AnnotationError(f'{self._line(row)}: detection {nth}: {complaint}')

    def _line(self, row: int) -> str:
        return f'{self.path}:{line_of_row(self.path, self.first + row)}'


def submission_texts(path: str | Path) -> Iterator[SubmissionText]:
    """Reads a submission piece by piece, in bounded memory.

    Raises:
        AnnotationError: A file that cannot be read, without the two columns, or with rows of another length.
    """
    image_column = image_column_of(path, read_header(path))
    types = {image_column: pa.string(), 'PredictionString': pa.string()}
    first = 0
    try:
        reader = pa_csv.open_csv(
            path,
            read_options=pa_csv.ReadOptions(block_size=_BLOCK_BYTES),
            convert_options=pa_csv.ConvertOptions(column_types=types, include_columns=list(types)),
        )
        for batch in reader:
            if len(batch):
                yield SubmissionText(Path(path), first, batch[image_column], batch['PredictionString'])
            first += len(batch)
    except (OSError, pa.ArrowInvalid) as error:
        raise AnnotationError(first_bad_row(path, types) or f'{path}: {error}') from error


def format_rows(
    image_ids: pa.Array, counts: np.ndarray, label_name: pa.Array, score: np.ndarray, box: np.ndarray
) -> pa.Buffer:
    """The lines of the file, as bytes; every number is the shortest text that reads back as the same.

    Args:
        image_ids: (n,) strings.
        counts: (n,) detections of each.
        label_name: (d,) strings, image after image.
        score: (d,) float32.
        box: (d, 4) float64.
    """
    numbers = [pc.cast(pa.array(np.ascontiguousarray(column)), pa.string()) for column in (score, *box.T)]
    detections = pc.binary_join_element_wise(label_name, *numbers, ' ')
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    texts = pc.binary_join(pa.ListArray.from_arrays(offsets, detections), ' ')
    lines = pc.binary_join_element_wise(pc.binary_join_element_wise(image_ids, texts, ','), '', '\n')
    # An array of strings keeps its characters one after the other: they are the text of the file.
    _, ends, characters = lines.buffers()
    return (
        characters.slice(0, int(np.frombuffer(ends, dtype=np.int32)[len(lines)])) if len(lines) else pa.py_buffer(b'')
    )


def image_column_of(path: str | Path, header: Sequence[str]) -> str:
    """Name of the column of ImageIDs."""
    for name in IMAGE_COLUMNS:
        if name in header:
            return name
    raise AnnotationError(f'{path}:1: has no column {" or ".join(IMAGE_COLUMNS)}; it has {", ".join(header)}')


def first_fault(score: np.ndarray, box: np.ndarray) -> tuple[int, str] | None:
    """The first detection that no detector can mean, and what is wrong with it."""
    finite = np.isfinite(score)
    if not finite.all():
        k = int(np.argmin(finite))
        return k, f'Score = {score[k]:g} must be a finite number'
    # Models put corners a little outside the image; pixels are something else.
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
