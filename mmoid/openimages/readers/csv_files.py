"""Reading the official CSV files, with errors that name the line.

Formats: https://storage.googleapis.com/openimages/web/download_v7.html and the challenge pages of 2018 and 2019.
Extra columns are ignored. ``.csv.gz`` is read too.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from mmoid.openimages.classes import ClassNames, require_unique
from mmoid.openimages.errors import AnnotationError

COORDINATES = ('XMin', 'YMin', 'XMax', 'YMax')
FLAGS = ('IsOccluded', 'IsTruncated', 'IsGroupOf', 'IsDepiction', 'IsInside')
UNKNOWN = -1  # value of a flag that the file does not give; the official files write -1 too
TEXT = pa.dictionary(pa.int32(), pa.string())  # type of a column with few distinct values
_BLOCK_BYTES = 4 << 20  # a quarter faster than Arrow's default of 1 MiB on files of a gigabyte


def read_boxes(path: str | Path) -> pa.Table:
    """Reads box rows: V4-V7 (13 columns), V3 without flags, challenge with or without ``IsGroupOf``.

    Returns:
        Columns ``ImageID`` (string), ``LabelName`` (dictionary), ``XMin, YMin, XMax, YMax`` (float64 in [0, 1]) and
        the five flags (int8: 1, 0 or -1 unknown), in file order.

    Raises:
        AnnotationError: A row that is not of this form. The message names the line.
    """
    columns = {'ImageID': pa.string(), 'LabelName': TEXT, **dict.fromkeys(COORDINATES, pa.float64())}
    table = read_columns(path, columns, optional=dict.fromkeys(FLAGS, pa.int8()))
    for name in COORDINATES:
        complaint = f'{name} = {{{name}:g}} is outside [0, 1]; coordinates are fractions of the image size'
        require_rows(path, table, _is_between(table[name], 0, 1), complaint)
    for low, high in (('XMin', 'XMax'), ('YMin', 'YMax')):
        ordered = table[low].to_numpy() <= table[high].to_numpy()
        require_rows(path, table, ordered, f'{low} = {{{low}:g}} is greater than {high} = {{{high}:g}}')
    for name in FLAGS:
        if name in table.column_names:
            complaint = f'{name} = {{{name}}} must be 1, 0 or -1 (unknown)'
            require_rows(path, table, _is_between(table[name], -1, 1), complaint)
        else:
            table = table.append_column(name, pa.array(np.full(len(table), UNKNOWN, dtype=np.int8)))
    return table


def read_image_labels(path: str | Path) -> pa.Table:
    """Reads human-verified image-level labels: ``ImageID``, ``LabelName``, ``Confidence`` (float32 in [0, 1])."""
    table = read_columns(path, {'ImageID': pa.string(), 'LabelName': TEXT, 'Confidence': pa.float32()})
    valid = _is_between(table['Confidence'], 0, 1)
    require_rows(path, table, valid, 'Confidence = {Confidence:g} is outside [0, 1]')
    return table


def read_classes(path: str | Path) -> ClassNames:
    """Reads ``MID,name`` rows, with or without a header. Their order gives class indices."""
    rows: list[tuple[str, str, int]] = []
    with open_text(path) as stream:
        for fields in (reader := csv.reader(stream)):
            if not fields or (reader.line_num == 1 and fields[0] == 'LabelName'):
                continue
            if len(fields) < 2 or not fields[0].startswith('/'):
                row = ','.join(fields)
                expected = "'MID,name' like '/m/01g317,Person'"
                raise AnnotationError(f'{path}:{reader.line_num}: expected {expected}, got {row!r}')
            rows.append((fields[0], fields[1], reader.line_num))
    if not rows:
        raise AnnotationError(f'{path}: holds no classes')
    mids, names, lines = zip(*rows)
    require_unique(mids, lambda i: f'{path}:{lines[i]}')
    return ClassNames(mids, names, str(path))


def read_image_sizes(path: str | Path) -> pa.Table:
    """Reads ``image_id``, ``width`` and ``height`` (int32, pixels), columns under any of their usual names."""
    header = read_header(path)
    spellings = {
        'image_id': ('image_id', 'ImageID', 'ImageId'),
        'width': ('width', 'image_w', 'Width'),
        'height': ('height', 'image_h', 'Height'),
    }
    names = {}
    for target, known in spellings.items():
        found = [name for name in known if name in header]
        if not found:
            raise AnnotationError(f'{path}: has none of the columns {", ".join(known)}; it has {", ".join(header)}')
        names[found[0]] = target
    types = {name: pa.string() if target == 'image_id' else pa.int32() for name, target in names.items()}
    table = read_columns(path, types).select(list(names)).rename_columns(list(names.values()))
    for name in ('width', 'height'):
        require_rows(path, table, table[name].to_numpy() >= 1, f'{name} = {{{name}}} must be at least 1 pixel')
    return table


def read_columns(
    path: str | Path, required: dict[str, pa.DataType], optional: dict[str, pa.DataType] | None = None
) -> pa.Table:
    """Reads some columns of a CSV file, with their types; ``optional`` ones if they are there.

    Raises:
        AnnotationError: A column missing or there twice, a row that does not parse, an empty field.
    """
    header = read_header(path)
    for name in (*required, *(optional or {})):
        if header.count(name) != 1 and (name in required or name in header):
            fault = 'twice the column' if name in header else 'no column'
            raise AnnotationError(f'{path}:1: has {fault} {name!r}; it has {", ".join(header)}')
    types = required | {name: dtype for name, dtype in (optional or {}).items() if name in header}
    try:
        table = _read_table(path, types)
    except (OSError, pa.ArrowInvalid) as error:
        raise unreadable(path, types, error) from error
    for name in types:
        if table[name].null_count:
            row = pc.index(pc.is_null(table[name]), True).as_py()
            raise AnnotationError(f'{path}:{line_of_row(path, row)}: {name} is empty')
    return table.unify_dictionaries()


def read_header(path: str | Path) -> list[str]:
    """Names of the columns."""
    with open_text(path) as stream:
        header = next(csv.reader(stream), None)
    if not header:
        raise AnnotationError(f'{path}: is empty; expected a CSV file with a header line')
    return header


@contextmanager
def open_text(path: str | Path) -> Iterator[IO[str]]:
    """Opens a CSV file, .csv or .csv.gz, for Python's ``csv``; errors become an AnnotationError."""
    # A submission has all detections of an image in one field; the default limit is some 2,300 of them.
    limit = csv.field_size_limit(1 << 30)
    try:
        opener = gzip.open if str(path).endswith('.gz') else open
        with opener(path, 'rt', newline='', encoding='utf-8-sig') as stream:
            yield stream
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:  # the second and third of gzip
        raise AnnotationError(f'{path}: cannot be read ({error})') from error
    finally:
        csv.field_size_limit(limit)


def require_rows(path: str | Path, table: pa.Table, holds: np.ndarray, complaint: str) -> None:
    """Raises for the first row where ``holds`` is False; ``complaint`` is a format string over its columns."""
    if not holds.all():
        row = int(np.argmin(holds))
        values = table.slice(row, 1).to_pylist()[0]
        raise AnnotationError(f'{path}:{line_of_row(path, row)}: {complaint.format(**values)}')


def line_of_row(path: str | Path, row: int) -> int:
    """Line number, from 1, of data row ``row``, from 0. Scans the file: for error messages only."""
    with open_text(path) as stream:
        reader = csv.reader(stream)
        lines = (reader.line_num for fields in reader if fields)  # Arrow skips blank lines too
        return next(islice(lines, row + 1, None))  # the first is the header


def unreadable(path: str | Path, types: dict[str, pa.DataType], error: Exception) -> AnnotationError:
    """The error for a file that Arrow refuses, with the line. Reads the file again: Arrow counts rows in one thread."""
    try:
        _read_table(path, types, use_threads=False)
    except (OSError, pa.ArrowInvalid) as again:
        found = re.fullmatch(r'(?:CSV parse error|In CSV column #(\d+)): Row #(\d+): (.*)', str(again), re.DOTALL)
        if found:
            column, row, fault = found.groups()
            name = '' if column is None else f'{read_header(path)[int(column)]}: '
            return AnnotationError(f'{path}:{line_of_row(path, int(row) - 2)}: {name}{fault}')
    return AnnotationError(f'{path}: cannot be read ({error})')


def number_rows(values: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Numbers the distinct values of (R,) strings in the order in which they first occur.

    Returns:
        The distinct values, and (R,) int32: which of them each row holds.
    """
    # The official files have runs of one image: each is looked up once.
    column = values.combine_chunks()
    changes = pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.concatenate([[len(column) > 0], changes]))
    runs = column.take(pa.array(starts)).dictionary_encode()
    return runs.dictionary, np.repeat(runs.indices.to_numpy(), np.diff(starts, append=len(column)))


def _read_table(path: str | Path, types: dict[str, pa.DataType], use_threads: bool = True) -> pa.Table:
    read_options = pa_csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=use_threads)
    convert_options = pa_csv.ConvertOptions(
        column_types=types, include_columns=list(types), null_values=[''], strings_can_be_null=True
    )
    return pa_csv.read_csv(path, read_options, convert_options=convert_options)


def _is_between(column: pa.ChunkedArray, low: float, high: float) -> np.ndarray:
    values = column.to_numpy()
    between: np.ndarray = (values >= low) & (values <= high)  # not NaN
    return between
