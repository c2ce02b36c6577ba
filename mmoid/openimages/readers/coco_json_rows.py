"""Elements of a large JSON array as an Arrow table, without a Python object per element.

What lies between two elements is overwritten by a line end, and Arrow's parser reads the lines, for the fields that are
asked for only.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as pa_json

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.ragged import row_and_position
from mmoid.utils.progress import Progress, no_progress

BATCH_BYTES = 1 << 26
"""Bytes of rows parsed at once."""

_BLOCK_BYTES = 1 << 20  # Arrow parses blocks in parallel
_SPACE, _NEWLINE, _RETURN, _COMMA = b' \n\r,'
_WHITESPACE = np.isin(np.arange(256), list(b' \t\n\r'))
_SHOWN = 80  # characters of a value in an error message


class JsonRows:
    """The elements of one top-level array of objects.

    Args:
        path: The file.
        name: The array's key, for error messages.
        start: Byte of its ``[``.
        stop: Byte after its ``]``.
        starts: (R,) byte of each element's first bracket.
        stops: (R,) byte after each element's last bracket.
    """

    def __init__(self, path: Path, name: str, start: int, stop: int, starts: np.ndarray, stops: np.ndarray) -> None:
        self.path = path
        self.name = name
        self._starts = starts
        self._stops = stops
        edges = ((start + 1, starts[0]), (stops[-1], stop - 1)) if len(starts) else ((start + 1, stop - 1),)
        for edge in edges:
            if not _WHITESPACE[read_bytes(path, *map(int, edge))].all():
                raise AnnotationError(f'{path}: {name} must be an array of objects, separated by commas')

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, row: int) -> Any:
        """One element, parsed by ``json``."""
        return parse_bytes(self.path, int(self._starts[row]), int(self._stops[row]), f'{self.name}[{row}]')

    def read(self, schema: pa.Schema, optional: Collection[str] = (), progress: Progress = no_progress) -> pa.Table:
        """Reads fields of all elements; others are passed over, whatever they hold.

        Args:
            schema: Names and types of the fields.
            optional: Those of them that may be absent or null, and are then null in the table.
            progress: Told in rows.

        Raises:
            AnnotationError: An element that is malformed, lacks a field, or holds a value of another type.
        """
        tables = []
        for first, last in self._batches():
            tables.append(self._read_batch(schema, first, last))
            progress(f'reading {self.name}', last, len(self))
        table = pa.concat_tables(tables) if tables else schema.empty_table()
        for name in schema.names:
            if name not in optional and table[name].null_count:
                row = pc.index(pc.is_null(table[name]), True).as_py()
                raise AnnotationError(f'{self.path}: {self.name}[{row}] has no {name!r}')
        return table

    def sample(self) -> dict[str, Any]:
        """The first element, to tell types by; empty where there is none, or it is no object."""
        first = self[0] if len(self) else {}
        return first if isinstance(first, dict) else {}

    def require(self, holds: np.ndarray, field: str, complaint: str) -> None:
        """Raises for the first element where ``holds`` (R,) is False, showing its ``field`` before the complaint."""
        if not holds.all():
            self.refuse(int(np.argmin(holds)), field, complaint)

    def refuse(self, row: int, field: str, complaint: str) -> None:
        """Raises for one element."""
        raise AnnotationError(f'{self.path}: {self.name}[{row}].{field} = {_shown(self[row].get(field))} {complaint}')

    def _batches(self) -> Iterator[tuple[int, int]]:
        first = 0
        while first < len(self):
            last = int(np.searchsorted(self._stops, self._starts[first] + BATCH_BYTES, side='right'))
            last = max(last, first + 1)
            yield first, last
            first = last

    def _read_batch(self, schema: pa.Schema, first: int, last: int) -> pa.Table:
        lines = self._lines(first, last)
        try:
            return _read_lines(lines, schema, int((self._stops - self._starts)[first:last].max()))
        except pa.ArrowInvalid:
            # Arrow does not tell the row. It is the one by which the rows so far become unreadable.
            good, bad = first, last
            while bad - good > 1:
                middle = (good + bad) // 2
                if self._is_readable(schema, good, middle):
                    good = middle
                else:
                    bad = middle
            raise AnnotationError(f'{self.path}: {self._fault(schema, good)}') from None

    def _lines(self, first: int, last: int) -> np.ndarray:
        """The bytes of some elements, one on each line."""
        start = int(self._starts[first])
        followed = min(last, len(self) - 1)  # a comma must stand behind all of these, and none behind the very last
        text = read_bytes(self.path, start, int(self._starts[last] if followed == last else self._stops[last - 1]))
        before = self._stops[first:followed] - start
        gaps = self._starts[first + 1 : followed + 1] - start - before
        row, position = row_and_position(gaps)
        place = before[row] + position
        between = text[place]
        commas = np.bincount(row[between == _COMMA], minlength=len(gaps))
        other = np.bincount(row[~_WHITESPACE[between] & (between != _COMMA)], minlength=len(gaps))
        wrong = (commas != 1) | (other != 0)
        if wrong.any():
            index = int(np.argmax(wrong))
            found = bytes(between[row == index]).decode(errors='replace')
            raise AnnotationError(
                f'{self.path}: {_shown(found)} stands between {self.name}[{first + index}] and the next object; it '
                'must be a comma'
            )
        text[place] = _SPACE
        for line_end in (_NEWLINE, _RETURN):  # within objects; in strings they are written \\n and \\r
            if (found_at := text == line_end).any():
                text[found_at] = _SPACE
        text[before] = _NEWLINE
        return text

    def _is_readable(self, schema: pa.Schema, first: int, last: int) -> bool:
        try:
            _read_lines(self._lines(first, last), schema, int((self._stops - self._starts)[first:last].max()))
        except pa.ArrowInvalid:
            return False
        return True

    def _fault(self, schema: pa.Schema, row: int) -> str:
        """What Arrow could not read in element ``row``."""
        value = self[row]  # raises where it is no JSON at all
        if not isinstance(value, dict):
            return f'{self.name}[{row}] = {_shown(value)} is not an object'
        for field in schema:
            if field.name in value:
                alone = json.dumps({field.name: value[field.name]}).encode()
                try:
                    _read_lines(np.frombuffer(alone, dtype=np.uint8), pa.schema([field]), len(alone))
                except pa.ArrowInvalid:
                    return f'{self.name}[{row}].{field.name} = {_shown(value[field.name])} is not {_kind(field.type)}'
        text = bytes(read_bytes(self.path, int(self._starts[row]), int(self._stops[row]))).decode(errors='replace')
        return f'{self.name}[{row}] is not an object that can be read: {text[:_SHOWN]}'


def read_bytes(path: Path, start: int, stop: int) -> np.ndarray:
    """(stop - start,) uint8, or less where the file ends; a copy that may be changed."""
    try:
        return np.fromfile(path, dtype=np.uint8, count=stop - start, offset=start)
    except OSError as error:
        raise AnnotationError(f'{path}: cannot be read ({error})') from error


def _read_lines(lines: np.ndarray, schema: pa.Schema, longest: int) -> pa.Table:
    table = pa_json.read_json(
        pa.BufferReader(pa.py_buffer(lines)),
        read_options=pa_json.ReadOptions(block_size=max(_BLOCK_BYTES, longest + 1)),
        parse_options=pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior='ignore'),
    ).select(schema.names)
    table.validate(full=True)  # of strings, that they are UTF-8
    return table


def parse_bytes(path: Path, start: int, stop: int, what: str) -> Any:
    """Parses one value with ``json``; ``what`` names it in the error message."""
    try:
        return json.loads(bytes(read_bytes(path, start, stop)))
    except json.JSONDecodeError as error:
        raise AnnotationError(f'{path}: {what} is not JSON: {error.msg}, near byte {start + error.pos}') from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f'{path}: {what} is not UTF-8: {error}') from error


def _kind(dtype: pa.DataType) -> str:
    if pa.types.is_list(dtype):
        return 'a list of numbers' if not pa.types.is_string(dtype.value_type) else 'a list of strings'
    if pa.types.is_string(dtype):
        return 'a string'
    if pa.types.is_boolean(dtype):
        return 'true or false'
    return 'a whole number' if pa.types.is_integer(dtype) else 'a number'


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}…'
