"""Finding the large arrays of a JSON file without parsing it.

``json.load`` of 12 million COCO annotations takes tens of gigabytes. Here one pass over the bytes notes where the
elements of the top-level arrays begin and end (:mod:`.json_scan`), and :class:`JsonRows` reads them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.coco_json_rows import JsonRows, parse_bytes, read_bytes
from mmoid.openimages.readers.coco_json_scan import BracketScanner
from mmoid.utils.progress import Progress, no_progress

SCAN_BYTES = 1 << 21
"""Bytes looked through at once: few enough for the processor's cache."""

_BYTE_ORDER_MARK = b'\xef\xbb\xbf'


class JsonFile:
    """The top level of a JSON file that holds one object.

    Args:
        path: The file, UTF-8.
        progress: Told in MiB how much of the file was looked through.

    Raises:
        AnnotationError: A file that cannot be read, that is no JSON object, or that ends too early. What stands below
            the top level is only looked at when it is asked for.
    """

    def __init__(self, path: str | Path, progress: Progress = no_progress) -> None:
        self.path = Path(path)
        self._require_object()
        scanner = BracketScanner()
        bounds: dict[int, tuple[list, list]] = {2: ([], []), 3: ([], [])}  # by depth; 1 is within the object itself
        size = self.path.stat().st_size
        for start in range(0, size, SCAN_BYTES):
            stop = min(size, start + SCAN_BYTES)
            place, step, depth = scanner.brackets(read_bytes(self.path, start, stop))
            for level, (starts, stops) in bounds.items():
                starts.append(place[(step > 0) & (depth == level)] + start)
                stops.append(place[(step < 0) & (depth == level - 1)] + start + 1)
            progress('finding rows (MiB)', stop >> 20, size >> 20)
        if scanner.in_string or scanner.depth > 0:
            inside = 'a string' if scanner.in_string else 'an array or object'
            raise AnnotationError(f'{self.path}: ends within {inside}; the file is cut off, or not JSON')
        self._values, self._rows = (
            (np.concatenate(starts), np.concatenate(stops)) for starts, stops in bounds.values()
        )
        self._top = self._read_top(size)

    def __contains__(self, key: str) -> bool:
        return key in self._top

    def value(self, key: str) -> Any:
        """A top-level value, parsed by ``json``: for small ones."""
        value = self._require_key(key)
        if not isinstance(value, list):
            return value
        start, stop = (int(bound[value[0]]) for bound in self._values)
        return parse_bytes(self.path, start, stop, key)

    def rows(self, key: str) -> JsonRows:
        """A top-level array of objects.

        Raises:
            AnnotationError: It is not there, or no array of objects separated by commas.
        """
        value = self._require_key(key)
        if isinstance(value, list):
            start, stop = (int(bound[value[0]]) for bound in self._values)
            brackets = bytes(read_bytes(self.path, start, start + 1)) + bytes(read_bytes(self.path, stop - 1, stop))
            if brackets == b'[]':
                first, last = np.searchsorted(self._rows[0], [start, stop])
                return JsonRows(self.path, key, start, stop, self._rows[0][first:last], self._rows[1][first:last])
        raise AnnotationError(f'{self.path}: {key} must be an array of objects')

    def _require_key(self, key: str) -> Any:
        if key not in self._top:
            held = ', '.join(map(repr, self._top)) or 'nothing'
            raise AnnotationError(f'{self.path}: has no {key!r} at its top level, which holds {held}')
        return self._top[key]

    def _require_object(self) -> None:
        head = bytes(read_bytes(self.path, 0, 4096)).removeprefix(_BYTE_ORDER_MARK).lstrip()
        if not head.startswith(b'{'):
            raise AnnotationError(f'{self.path}: must hold a JSON object, but begins with {head[:8]!r}')

    def _read_top(self, size: int) -> dict[str, Any]:
        """The top-level object, with ``[i]`` in place of the i-th array or object in it."""
        starts, stops = (bound.tolist() for bound in self._values)
        pieces = []
        for index, (before, start) in enumerate(zip([0, *stops], [*starts, size])):
            pieces += [bytes(read_bytes(self.path, before, start)), b'[%d]' % index]
        text = b''.join(pieces[:-1])
        try:
            return json.loads(text)
        except ValueError as error:  # of the encoding too
            raise AnnotationError(f'{self.path}: is not JSON at its top level ({error})') from error
