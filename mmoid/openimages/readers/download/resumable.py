"""Downloading a large file over a bad line: resumed where it was cut, compared with what was published.

While bytes come they are in ``NAME.part``, and ``NAME.download.json`` says of which version of which address. ``NAME``
appears whole and compared, or not at all. Killing the process at any moment leaves a part that the next run goes on
with.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from mmoid.openimages.readers.download.checksums import BLOCK, Digests, Expected
from mmoid.openimages.readers.download.http_source import (
    Answer,
    DownloadError,
    Interrupted,
    RangeRefused,
    Remote,
    open_answer,
    require_http,
)
from mmoid.openimages.readers.download.record import DownloadRecord, load_record, part_path, record_path, save_record
from mmoid.utils.progress import Progress, no_progress

LONGEST_WAIT = 60.0
_logger = logging.getLogger(__name__)


def download(
    url: str,
    path: str | Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    progress: Progress = no_progress,
    retries: int = 6,
    timeout: float = 60.0,
    sleep: Callable[[float], None] = time.sleep,
) -> DownloadRecord:
    """Downloads a file, or what of it is missing.

    A file that is there already is left as it is, and nothing is asked of the server, if its record says that it came
    whole, its size and time are still those of the record, and it agrees with the arguments. Any other file under that
    name is read and compared with ``sha256`` and ``md5``, or with what the server says where neither is given; it is
    taken over where it is equal, and never replaced where it is not.

    The bytes are compared with ``size``, ``sha256`` and ``md5``, with the length that the server announces, and with
    the MD5 in its ``x-goog-hash`` or ``Content-MD5`` header. A file that does not agree is downloaded once more.

    Of several processes with one ``path`` one downloads; the others wait, and find the file.

    Args:
        url: Address of http or https. Proxies are those of the environment (``https_proxy``, ``no_proxy``).
        path: The file to make. Its folder is made if need be.
        md5: Expected MD5, hexadecimal.
        sha256: Expected SHA-256, hexadecimal.
        size: Expected bytes, exactly.
        progress: Told the file's name, bytes that are there, and bytes of all (0 while unknown).
        retries: Failures in a row until it gives up; counted anew whenever the part has grown. The waits between are
            1, 2, 4, ... 60 s, or what the server asks for.
        timeout: Seconds of silence after which a connection counts as cut.
        sleep: Waits that many seconds.

    Returns:
        Its record, with the digests of the file.

    Raises:
        DownloadError: No such file there, not allowed, no connection, another file than expected, a file in the way,
            a disk that is full.
    """
    require_http(url)
    path = Path(path)
    expected = Expected(size, md5.lower() if md5 else None, sha256.lower() if sha256 else None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return _take_over(url, path, expected, timeout)
        with _own_part(path, progress) as part:
            if path.exists():  # another process has been faster
                return _take_over(url, path, expected, timeout)
            return _Download(url, path, expected, part, progress, timeout).run(retries, sleep)
    except OSError as error:
        raise DownloadError(
            f'{error.filename or part_path(path)}: {error.strerror or error}; mend that and run again, it goes on '
            'where it stopped'
        ) from error


class _Download:
    """One download into a part file that this process owns."""

    def __init__(
        self, url: str, path: Path, expected: Expected, part: IO[bytes], progress: Progress, timeout: float
    ) -> None:
        self.url, self.path, self.expected = url, path, expected
        self.part, self.progress, self.timeout = part, progress, timeout
        record = load_record(path)
        if record and record.url == url and record.modified_ns is None:
            self.remote: Remote | None = record.remote
            self.digests = Digests.of(part)
        else:
            self.start_over()

    def run(self, retries: int, sleep: Callable[[float], None]) -> DownloadRecord:
        furthest, failures, is_second = self.digests.size, 0, False
        while True:
            try:
                self.fetch()
            except Interrupted as problem:
                # Only new bytes are progress: a server without ranges may be cut at the same place for ever.
                failures = 0 if self.digests.size > furthest else failures + 1
                furthest = max(furthest, self.digests.size)
                if failures > retries:
                    raise DownloadError(
                        f'{problem}; given up after {retries} retries; run again, it goes on at byte '
                        f'{self.digests.size:,}'
                    ) from problem
                wait = min(LONGEST_WAIT, 0.5 * 2**failures if problem.wait is None else problem.wait)
                if failures:
                    _logger.warning('%s; trying again in %g s', problem, wait)
                sleep(wait)
                continue
            complaint = self.complaint()
            if complaint is None:
                return self.finish()
            arrived_as_sent = self.remote is not None and self.remote.md5 == self.digests.md5
            self.start_over()
            if is_second or arrived_as_sent:
                reason = 'the server holds another file now' if arrived_as_sent else 'it arrived wrong twice'
                raise DownloadError(f'{self.url}: {complaint}; {reason}; try another mirror')
            furthest, failures, is_second = 0, 0, True

    def fetch(self) -> None:
        """One request: until nothing is missing, or something breaks.

        Raises:
            Interrupted: Something broke; what has come is kept unless it is of another file than what is there.
        """
        if self.remote and self.digests.size == self.remote.total:
            return
        # Without a validator nobody can say whether the rest would be of the same file.
        validator = self.remote.validator if self.remote else None
        try:
            with open_answer(self.url, self.digests.size if validator else 0, validator, self.timeout) as answer:
                total = self.accept(answer)
                self.progress(self.path.name, self.digests.size, total or 0)
                # Not one byte past the end: a server may leave the connection open, and waiting would take a timeout.
                while block := answer.read(BLOCK if total is None else min(BLOCK, total - self.digests.size)):
                    self.part.write(block)
                    self.part.flush()
                    self.digests.update(block)
                    self.progress(self.path.name, self.digests.size, total or 0)
        except RangeRefused:
            self.start_over()
            raise
        if total is not None and self.digests.size < total:
            raise Interrupted(f'{self.url}: the connection was cut at byte {self.digests.size:,} of {total:,}')

    def accept(self, answer: Answer) -> int | None:
        """Goes on with the part, or begins it anew, as the answer has it.

        Returns:
            Bytes of the whole file, if known.
        """
        remote = answer.remote
        if self.expected.size is not None and remote.total not in (None, self.expected.size):
            raise DownloadError(
                f'{self.url}: has {remote.total:,} bytes, expected {self.expected.size:,}; the server holds another '
                'file now; try another mirror'
            )
        if not (answer.tells_its_end or self.expected.has_checksum or remote.md5):
            raise DownloadError(f'{self.url}: comes without length and checksum; a cut would not show; try a mirror')
        if answer.start == 0:
            self.start_over()
        elif self.remote is None or answer.start != self.digests.size or not remote.is_same_file(self.remote):
            self.start_over()
            raise Interrupted(f'{self.url}: is another file now than the one that was begun')
        else:
            # Of some headers a server sends less with a part, of others (the length, after chunks) more.
            remote = replace(remote, total=remote.total or self.remote.total, md5=remote.md5 or self.remote.md5)
        self.remote = remote
        save_record(self.path, DownloadRecord(self.url, remote.total, remote.etag, remote.last_modified, remote.md5))
        return remote.total

    def start_over(self) -> None:
        """Forgets what has come. The part is empty before its record goes: never is a part without its own record."""
        self.remote = None
        self.digests = Digests()
        self.part.seek(0)
        self.part.truncate()
        os.fsync(self.part.fileno())
        record_path(self.path).unlink(missing_ok=True)

    def complaint(self) -> str | None:
        complaint = self.expected.complaint(self.digests.size, self.digests.md5, self.digests.sha256)
        if complaint is None and self.remote and self.remote.md5 not in (None, self.digests.md5):
            complaint = f'its MD5 is {self.digests.md5}, the server announced {self.remote.md5}'
        return complaint

    def finish(self) -> DownloadRecord:
        assert self.remote is not None
        os.fsync(self.part.fileno())  # a power cut must not leave the name without the bytes
        modified_ns = os.fstat(self.part.fileno()).st_mtime_ns
        record = _whole(self.url, self.remote, self.digests, _checked_by(self.expected, self.remote), modified_ns)
        save_record(self.path, record)
        os.replace(part_path(self.path), self.path)
        return record


@contextmanager
def _own_part(path: Path, progress: Progress) -> Iterator[IO[bytes]]:
    """The part file, opened for reading and writing, locked until the end. Waits while another process has it."""
    name = part_path(path)
    while True:
        with os.fdopen(os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), 'r+b') as part:
            try:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f'{path.name} (another process downloads it)', 0, 0)
                fcntl.flock(part, fcntl.LOCK_EX)
            if not _is_at(part, name):
                continue  # its last owner has given it its final name
            try:
                yield part
            finally:
                if _is_at(part, name) and not name.stat().st_size:
                    name.unlink()
            return


def _is_at(stream: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _take_over(url: str, path: Path, expected: Expected, timeout: float) -> DownloadRecord:
    """The record of a file that is there; see :func:`download` for when it counts as downloaded."""
    record = load_record(path)
    if record and record.is_of(path) and record.total is not None and record.md5 and record.sha256:
        complaint = expected.complaint(record.total, record.md5, record.sha256)
        if complaint is None and (record.url == url or expected.has_checksum):
            return record
    with open(path, 'rb') as stream:
        digests = Digests.of(stream)
        modified_ns = os.fstat(stream.fileno()).st_mtime_ns
    remote = Remote(None, None, None, None)
    if not expected.has_checksum:
        try:
            with open_answer(url, 0, None, timeout) as answer:
                remote = answer.remote
        except Interrupted as problem:
            raise DownloadError(f'{path}: is there, and cannot be compared: {problem}; move it away') from problem
    published = expected if expected.has_checksum else Expected(expected.size or remote.total, remote.md5)
    complaint = published.complaint(digests.size, digests.md5, digests.sha256)
    if complaint is not None:
        raise DownloadError(f'{path}: is there, and is not {url}: {complaint}; move it away and run again')
    record = _whole(url, remote, digests, _checked_by(expected, remote), modified_ns)
    save_record(path, record)
    return record


def _checked_by(expected: Expected, remote: Remote) -> str:
    names = [name for name in ('sha256', 'md5') if getattr(expected, name)]
    return ' and '.join(names) or ('md5 of the server' if remote.md5 else 'length')


def _whole(url: str, remote: Remote, digests: Digests, checked_by: str, modified_ns: int) -> DownloadRecord:
    return DownloadRecord(
        url, digests.size, remote.etag, remote.last_modified, digests.md5, digests.sha256, checked_by, modified_ns
    )
