"""DownloadRecord: the small JSON file beside a download that says what it is."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from mmoid.openimages.readers.download.http_source import Remote


@dataclass(frozen=True)
class DownloadRecord:
    """What ``NAME.part`` is a part of, and once it is whole, what ``NAME`` is.

    Attributes:
        url: Where it came from.
        total: Bytes of the whole file.
        etag: Entity tag that the server sent.
        last_modified: Date that the server sent.
        md5: Of the whole file, in hexadecimal: announced by the server at first, of the bytes here at the end.
        sha256: Of the bytes here, once all are.
        checked_by: What the whole file was compared with.
        modified_ns: Modification time of the whole file, ns. A file of another time or size has been changed since.
    """

    url: str
    total: int | None
    etag: str | None
    last_modified: str | None
    md5: str | None
    sha256: str | None = None
    checked_by: str | None = None
    modified_ns: int | None = None

    @property
    def remote(self) -> Remote:
        """The file as the server described it."""
        return Remote(self.total, self.etag, self.last_modified, self.md5)

    def is_of(self, path: Path) -> bool:
        """Whether ``path`` is still the file, whole, that was recorded."""
        try:
            status = path.stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.total, self.modified_ns)


def part_path(path: Path) -> Path:
    """Where the bytes of ``path`` are until all have come."""
    return path.with_name(f'{path.name}.part')


def record_path(path: Path) -> Path:
    """Where the record of ``path`` and of its part is."""
    return path.with_name(f'{path.name}.download.json')


def load_record(path: Path) -> DownloadRecord | None:
    """The record of ``path``; None where there is none, or none that can be read."""
    try:
        return DownloadRecord(**json.loads(record_path(path).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def save_record(path: Path, record: DownloadRecord) -> None:
    """Writes the record of ``path``, whole or not at all."""
    temporary = path.with_name(f'.{path.name}.download.json.writing-{os.getpid()}')
    temporary.write_text(json.dumps(asdict(record), indent=1) + '\n')
    os.replace(temporary, record_path(path))


def bytes_there(path: Path) -> int:
    """Bytes on disk of ``path``, or of its part."""
    for name in (path, part_path(path)):
        if name.exists():
            return name.stat().st_size
    return 0


def describe_state(path: str | Path) -> str:
    """In a few words, how much of a download is there; looks at files only, at their names, sizes and times."""
    path = Path(path)
    record = load_record(path)
    if path.exists():
        return 'whole' if record and record.is_of(path) else 'there, unchecked'
    begun = bytes_there(path)
    if not begun:
        return 'no'
    return f'{begun / record.total:.0%}' if record and record.total else f'{begun:,} bytes'
