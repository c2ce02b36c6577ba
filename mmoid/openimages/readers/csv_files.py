"""Reading the official CSV files, with errors that name the line.

Formats: https://storage.googleapis.com/openimages/web/download_v7.html and the challenge pages of 2018 and 2019.
Extra columns are ignored. ``.csv.gz`` is read too.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from mmoid.openimages.classes import ClassNames, require_unique
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.store.summary import Summary
from mmoid.utils.progress import Progress, no_progress

COORDINATES = ('XMin', 'YMin', 'XMax', 'YMax')
FLAGS = ('IsOccluded', 'IsTruncated', 'IsGroupOf', 'IsDepiction', 'IsInside')
UNKNOWN = -1  # value of a flag that the file does not give; the official files write -1 too
_SIZES = {'width': 'image_w', 'height': 'image_h'}  # other names of the columns
TEXT = pa.dictionary(pa.int32(), pa.string())  # type of a column with few distinct values
ROUNDING = 0.01  # by which a coordinate may leave [0, 1]; anything farther is not a fraction
_FLAG_WORDS = {
    **dict.fromkeys(('true', 'yes', 't', 'y'), 1),
    **dict.fromkeys(('false', 'no', 'f', 'n'), 0),
    **dict.fromkeys(('', 'nan', 'none', 'null', 'na', 'n/a'), UNKNOWN),
}
_NO_FLAG = -2
_ROW = 'row of the file'
GZIP = b'\x1f\x8b'  # the first bytes of a compressed file
_BLOCK_BYTES = 4 << 20  # a quarter faster than Arrow's default of 1 MiB on files of a gigabyte


def read_boxes(path: str | Path, summary: Summary | None = None, progress: Progress = no_progress) -> pa.Table:
    """Reads box rows: V4-V7 (13 columns), V3 without flags, challenge with or without ``IsGroupOf``.

    Coordinates that leave [0, 1] by rounding are clipped, boxes with swapped corners are dropped, and flags may be
    empty, ``0.0`` or ``True``. The summary counts what is dropped and changed; progress is in MB.

    Returns:
        Columns ``ImageID`` (string), ``LabelName`` (dictionary), ``XMin, YMin, XMax, YMax`` (float64 in [0, 1]) and
        the five flags (int8: 1, 0 or -1 unknown), in file order.

    Raises:
        AnnotationError: A row that is not of this form. The message names the line.
    """
    columns = {'ImageID': pa.string(), 'LabelName': TEXT, **dict.fromkeys(COORDINATES, pa.float64())}
    optional = {**dict.fromkeys(FLAGS, TEXT), 'Confidence': pa.float64()}
    remedy = 'as predictions have; give a file of annotated boxes'
    for name in ('Score', 'Conf'):
        if find_column(read_header(path), name):
            raise AnnotationError(f'{path}:1: has a column {name}, {remedy}')
    table = read_columns(path, columns, optional, progress)
    if 'Confidence' in table.column_names:  # 1 in the official files
        score = pc.and_(pc.greater(table['Confidence'], 0), pc.less(table['Confidence'], 1)).fill_null(False).to_numpy()
        require_rows(path, table, ~score, f'Confidence = {{Confidence!r}}, {remedy}')
        table = table.drop_columns('Confidence')
    summary = Summary() if summary is None else summary
    summary.box_rows = len(table)
    for name in COORDINATES:
        if not pc.all(pc.and_(pc.greater_equal(table[name], 0), pc.less_equal(table[name], 1))).as_py():  # nor NaN
            values = table[name].to_numpy()
            valid = (values >= -ROUNDING) & (values <= 1 + ROUNDING)
            complaint = f'{name} = {{{name}!r}} is outside [0, 1]; coordinates are fractions of the image size'
            require_rows(path, table, valid, complaint)
            _count(summary.change, 'coordinates clipped to [0, 1]', path, (values < 0) | (values > 1))
            table = _with_column(table, name, np.clip(values, 0, 1))
    for name in FLAGS:
        table = _with_column(table, name, _flags(path, table, name, summary))
    swapped = pc.or_(pc.greater(table['XMin'], table['XMax']), pc.greater(table['YMin'], table['YMax'])).to_numpy()
    return _without_rows(path, table, swapped, 'boxes with swapped corners', summary)


def read_image_labels(path: str | Path, summary: Summary | None = None, progress: Progress = no_progress) -> pa.Table:
    """Reads human-verified image-level labels: ``ImageID``, ``LabelName``, ``Confidence`` (float32: 1 or 0).

    Machine-generated labels verify nothing. They are dropped: ``Source`` begins with ``machine``, or the confidence is
    between 0 and 1.

    Raises:
        AnnotationError: A row that does not parse, a file of machine-generated labels.
    """
    columns = {'ImageID': pa.string(), 'LabelName': TEXT, 'Confidence': pa.float32()}
    table = read_columns(path, columns, {'Source': TEXT}, progress)
    confidence = table['Confidence'].to_numpy()
    valid = (confidence >= 0) & (confidence <= 1)
    require_rows(path, table, valid, 'Confidence = {Confidence!r} is outside [0, 1]')
    machine = (confidence > 0) & (confidence < 1)
    if 'Source' in table.column_names:
        by_machine = pc.match_substring_regex(table['Source'].cast(pa.string()), r'^\s*machine', ignore_case=True)
        machine |= by_machine.fill_null(False).to_numpy()
        table = table.drop_columns('Source')
    if len(table) and machine.all():
        raise AnnotationError(f'{path}: all labels are machine-generated; give the human-verified ones')
    summary = Summary() if summary is None else summary
    summary.label_rows = len(table)
    return _without_rows(path, table, machine, 'machine-generated labels', summary)


def read_classes(path: str | Path, summary: Summary | None = None) -> ClassNames:
    """Reads ``MID,name`` or ``MID,name,index`` rows, with or without a header.

    Class indices follow the index column, as in mmdet's class lists, else the order of the rows.
    """
    with open_text(path) as stream:
        reader = csv.reader(stream)
        lines = [([field.strip() for field in fields], reader.line_num) for fields in reader if ''.join(fields).strip()]
    rows = [(fields[:-1] if fields[-1] == '' else fields, line) for fields, line in lines]  # a comma ends the line
    if rows and _is_header(rows):
        rows = rows[1:]
    if not rows:
        raise AnnotationError(f'{path}: holds no classes')
    width = 3 if all(len(fields) == 3 and re.fullmatch(r'\d+(\.0*)?', fields[2]) for fields, _ in rows) else 2
    for fields, line in rows:
        if len(fields) != width or not (fields[0] and fields[1]):
            expected = "'MID,name' like '/m/01g317,Person', or 'MID,name,index'; quote a name with a comma"
            raise AnnotationError(f'{path}:{line}: expected {expected}, got {",".join(fields)!r}')
    require_unique([fields[0] for fields, _ in rows], lambda i: f'{path}:{rows[i][1]}')
    if width == 3:
        ordered = sorted(rows, key=lambda row: float(row[0][2]))
        start = min(int(float(ordered[0][0][2])), 1)
        for index, (fields, line) in enumerate(ordered, start):
            if float(fields[2]) != index:
                raise AnnotationError(f'{path}:{line}: class index {fields[2]}; expected each of 1 to {len(rows)} once')
        if summary is not None and ordered != rows:
            summary.change('classes put in the order of their index column', len(rows))
        rows = ordered
    return ClassNames(tuple(fields[0] for fields, _ in rows), tuple(fields[1] for fields, _ in rows), str(path))


def read_image_sizes(path: str | Path) -> pa.Table:
    """Reads ``image_id``, ``width`` and ``height`` (int32, pixels), columns under any of their usual names."""
    header = read_header(path)
    names = {name: other if find_column(header, other) else name for name, other in _SIZES.items()}
    table = read_columns(path, {'ImageID': pa.string(), **dict.fromkeys(names.values(), pa.float64())})
    table = table.rename_columns(['image_id', *names])
    for name in names:
        pixels = table[name].to_numpy()
        whole = (pixels >= 1) & (pixels < 1 << 31) & (np.floor(pixels) == pixels)  # some files write 640.0
        require_rows(path, table, whole, f'{name} = {{{name}!r}} must be a whole number of at least 1 pixel')
        table = _with_column(table, name, pixels.astype(np.int32))
    return table


def read_columns(
    path: str | Path,
    required: dict[str, pa.DataType],
    optional: dict[str, pa.DataType] | None = None,
    progress: Progress = no_progress,
) -> pa.Table:
    """Reads some columns of a CSV file, with their types; ``optional`` ones if they are there. These may have gaps.

    A column is found whatever its case and underscores: ``image_id`` is ``ImageID``.

    Raises:
        AnnotationError: A column missing or there twice, a row that does not parse, an empty field.
    """
    header = read_header(path)
    types_here = required | (optional or {})
    names = {}  # in the file -> here
    for name in types_here:
        column = find_column(header, name)
        if column is not None and header.count(column) == 1:
            names[column] = name
        elif column is not None or name in required:
            fault = 'no column' if column is None else 'twice the column'
            raise AnnotationError(f'{path}:1: has {fault} {name!r}; it has {", ".join(header)}')
    types = {column: types_here[name] for column, name in names.items()}
    try:
        table = _read_table(path, types, progress)
    except (OSError, pa.ArrowInvalid) as error:
        raise unreadable(path, types, error) from error
    table = table.rename_columns([names[column] for column in table.column_names]).unify_dictionaries()
    for position, name in enumerate(table.column_names):
        if types_here[name] == TEXT:
            table = table.set_column(position, name, _trimmed(table[name]))
    for name in table.column_names:
        if table[name].null_count and name in required:
            row = pc.index(pc.is_null(table[name]), True).as_py()
            raise AnnotationError(f'{path}:{line_of_row(path, row)}: {name} is empty')
    return table


def find_column(header: Sequence[str], name: str) -> str | None:
    """The column of this name; else the one that differs in case, underscores and spaces only."""
    if name in header:
        return name
    return next((column for column in header if _plain(column) == _plain(name)), None)


def class_column(
    path: str | Path, table: pa.Table, classes: ClassNames, summary: Summary, remedy: str = ''
) -> np.ndarray:
    """(R,) int32 class index of the rows. With a ``remedy``, an unknown class is an AnnotationError; else it is -1."""
    column = table['LabelName'].combine_chunks()
    label = classes.find(column)
    is_mid = pc.is_in(column.dictionary, pa.array(classes.label_names, pa.string())).to_numpy(zero_copy_only=False)
    other_spelling = (label >= 0) & ~is_mid[column.indices.to_numpy()]
    if other_spelling.any():
        first = f'{Path(path).name}:{_line(path, table, int(np.argmax(other_spelling)))}'
        summary.change('classes given by name, or with spaces, instead of MID', other_spelling.sum(), first)
    if remedy and (label < 0).any():
        row = int(np.argmax(label < 0))
        raise classes.unknown(table['LabelName'][row].as_py(), f'{path}:{_line(path, table, row)}', remedy)
    return label


def read_header(path: str | Path) -> list[str]:
    """Names of the columns."""
    with open_text(path) as stream:
        header = next(filter(None, csv.reader(stream)), None)
    if not header:
        raise AnnotationError(f'{path}: is empty; expected a CSV file with a header line')
    for separator in ('\t', ';'):
        if len(header) == 1 and separator in header[0]:
            raise AnnotationError(f'{path}:1: columns are separated by {separator!r}; expected commas')
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
    except UnicodeDecodeError as error:
        with open(path, 'rb') as binary:
            remedy = 'it is compressed: name it .csv.gz' if binary.read(2) == GZIP else 'expected a text in UTF-8'
        raise AnnotationError(f'{path}: cannot be read ({error}); {remedy}') from error
    # EOFError and zlib.error come from gzip. Python 3.10 refuses NUL bytes with a csv.Error.
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise AnnotationError(f'{path}: cannot be read ({error})') from error
    finally:
        csv.field_size_limit(limit)


def require_rows(path: str | Path, table: pa.Table, holds: np.ndarray, complaint: str) -> None:
    """Raises for the first row where ``holds`` is False; ``complaint`` is a format string over its columns."""
    if not holds.all():
        row = int(np.argmin(holds))
        values = table.slice(row, 1).to_pylist()[0]
        raise AnnotationError(f'{path}:{_line(path, table, row)}: {complaint.format(**values)}')


def line_of_row(path: str | Path, row: int) -> int:
    """Line number, from 1, of data row ``row``, from 0. Scans the file: for error messages only."""
    with open_text(path) as stream:
        reader = csv.reader(stream)
        lines = (reader.line_num for fields in reader if fields)  # Arrow skips blank lines too
        return next(islice(lines, row + 1, None))  # the first is the header


def unreadable(path: str | Path, types: dict[str, pa.DataType], error: Exception) -> AnnotationError:
    """The error for a file that Arrow refuses, with the line. Reads the file again: Arrow counts rows in one thread."""
    try:
        _read_table(path, types, no_progress, use_threads=False)
    except (OSError, pa.ArrowInvalid) as again:
        found = re.fullmatch(r'(?:CSV parse error|In CSV column #(\d+)): Row #(\d+): (.*)', str(again), re.DOTALL)
        if found:
            column, row, fault = found.groups()
            name = '' if column is None else f'{read_header(path)[int(column)]}: '
            return AnnotationError(f'{path}:{line_of_row(path, int(row) - 2)}: {name}{fault}')
    return AnnotationError(f'{path}: cannot be read ({error})')


def _trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of TEXT without spaces around the texts."""
    texts = column.chunk(0).dictionary if column.num_chunks else pa.array([], pa.string())  # of all chunks
    spaced = pc.any(pc.match_substring_regex(texts, r'^\s|\s$')).as_py()
    return pc.utf8_trim_whitespace(column.cast(pa.string())).dictionary_encode() if spaced else column


class _CountedFile:
    """A file for Arrow that reports how much of it has been read. Blocks are not copied into Python's bytes."""

    closed = False

    def __init__(self, path: str | Path, progress: Progress) -> None:
        self.file, self.progress = pa.OSFile(str(path)), progress
        self.what, self.size = f'reading {Path(path).name}, MB', self.file.size()

    def read_buffer(self, size: int) -> pa.Buffer:
        block = self.file.read_buffer(size)
        self.progress(self.what, 1 + (self.file.tell() >> 20), 1 + (self.size >> 20))
        return block

    def read(self, size: int) -> bytes:  # of compressed files
        return bytes(self.read_buffer(size))

    def close(self) -> None:
        self.file.close()


def _read_table(
    path: str | Path, types: dict[str, pa.DataType], progress: Progress, use_threads: bool = True
) -> pa.Table:
    read_options = pa_csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=use_threads)
    convert_options = pa_csv.ConvertOptions(
        column_types=types, include_columns=list(types), null_values=[''], strings_can_be_null=True
    )
    with ExitStack() as stack:
        stream = stack.enter_context(closing(_CountedFile(path, progress)))
        if str(path).endswith('.gz'):
            stream = stack.enter_context(pa.CompressedInputStream(stream, 'gzip'))
        return pa_csv.read_csv(stream, read_options, convert_options=convert_options)


def _is_header(rows: Sequence[tuple[list[str], int]]) -> bool:
    """Whether the first row names columns: by its first field, or because it alone does not begin with ``/``."""
    first, others = rows[0][0], rows[1:]
    by_slash = bool(others) and all(fields[0].startswith('/') for fields, _ in others) and first[0][:1] != '/'
    return by_slash or _plain(first[0]) in ('labelname', 'mid', 'label', 'class', 'classid', 'id', 'freebaseid')


def _plain(name: str) -> str:
    return re.sub(r'[\s_]', '', name).lower()


def _count(add: Callable[[str, int, str], None], reason: str, path: str | Path, rows: np.ndarray) -> None:
    """Adds the (R,) bool rows of a file to a summary, with the line of the first."""
    if rows.any():
        add(reason, int(rows.sum()), f'{Path(path).name}:{line_of_row(path, int(np.argmax(rows)))}')


def _flags(path: str | Path, table: pa.Table, name: str, summary: Summary) -> np.ndarray:
    """(R,) int8 of a flag; ``-1`` if the file does not have it."""
    if name not in table.column_names:
        return np.full(len(table), UNKNOWN, dtype=np.int8)
    column = pa.chunked_array([pa.array([], TEXT), *table[name].chunks]).unify_dictionaries().combine_chunks()
    texts = column.dictionary.to_pylist()
    found = [flag_of_text(text) for text in texts]
    values = np.array([*(_NO_FLAG if value is None else value for value in found), UNKNOWN], dtype=np.int8)
    usual = np.array([*(text in ('0', '1', '-1') for text in texts), column.null_count == 0])
    code = column.indices.fill_null(-1).to_numpy()
    if not usual.all():
        require_rows(path, table, values[code] != _NO_FLAG, f'{name} = {{{name}}} must be 1, 0 or -1 (unknown)')
        _count(summary.change, 'flags that are empty or not written as 1, 0 or -1', path, ~usual[code])
    return values[code]


def flag_of_text(text: str) -> int | None:
    """1, 0 or -1 (unknown) of a flag in any usual spelling, such as ``True``; None if it is no flag."""
    word = text.strip().lower()
    try:
        value = _FLAG_WORDS[word] if word in _FLAG_WORDS else float(word)
    except ValueError:
        return None
    return int(value) if value in (1, 0, UNKNOWN) else None


def _with_column(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    """The table with a column replaced or added."""
    return table.select([column for column in table.column_names if column != name]).append_column(name, [values])


def _without_rows(path: str | Path, table: pa.Table, rows: np.ndarray, reason: str, summary: Summary) -> pa.Table:
    """Drops and counts (R,) bool rows. The others get the column ``_ROW``, so that errors still name the right line."""
    if not rows.any():
        return table
    _count(summary.drop, reason, path, rows)
    kept = _with_column(table, _ROW, np.arange(len(table))).filter(pa.array(~rows))
    lost = np.setdiff1d(table['ImageID'].filter(pa.array(rows)).unique(), kept['ImageID'].unique())
    first = str(lost[0]) if len(lost) else ''
    summary.change(f'images left without a row of {Path(path).name}', len(lost), first)
    return kept


def _line(path: str | Path, table: pa.Table, row: int) -> int:
    return line_of_row(path, table[_ROW][row].as_py() if _ROW in table.column_names else row)
