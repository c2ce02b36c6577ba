"""One HTTP request for a file, or for the rest of it, and what its answer says about the file.

Ranges and their conditions: RFC 9110, sections 13.1.5 (If-Range), 14.2 (Range) and 15.3.7 (206). Headers of Google
Cloud Storage: https://cloud.google.com/storage/docs/xml-api/reference-headers.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse, InvalidURL
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

_TRY_LATER = (408, 425, 429)


class DownloadError(RuntimeError):
    """A file that cannot be downloaded. The message names the address or the file, what happened, and what to do."""


class Interrupted(Exception):
    """The request failed in a way that may pass: a cut, a timeout, an overloaded server.

    Attributes:
        wait: Seconds that the server asks to wait; None where it does not.
    """

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class RangeRefused(Interrupted):
    """The server has no bytes from that position on: it no longer holds the file that was begun."""


@dataclass(frozen=True)
class Remote:
    """What the server says of the file it holds now.

    Attributes:
        total: Bytes of the whole file; None where it does not say.
        etag: Entity tag as sent, quotes included.
        last_modified: HTTP date as sent.
        md5: Of the whole file, in hexadecimal.
    """

    total: int | None
    etag: str | None
    last_modified: str | None
    md5: str | None

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` may carry: a strong entity tag, else the date. None: parts cannot be told apart."""
        if self.etag and not self.etag.startswith('W/'):
            return self.etag
        return self.last_modified

    def is_same_file(self, other: Remote) -> bool:
        """Whether both describe the same bytes, as far as servers tell."""
        same_total = self.total == other.total or None in (self.total, other.total)
        return self.validator is not None and self.validator == other.validator and same_total


class Answer:
    """An open answer: bytes ``start`` and on of the file that ``remote`` describes."""

    def __init__(self, response: HTTPResponse, url: str) -> None:
        self._response = response
        self._url = url
        headers = response.headers
        if response.status not in (200, 206):
            raise DownloadError(f'{url}: the server answers {response.status} {response.reason}; try a mirror')
        if headers.get_content_type() == 'text/html':
            raise DownloadError(f'{url}: a web page arrives instead of the file; does a proxy want a login?')
        encoding = headers.get('Content-Encoding', 'identity')
        if encoding != 'identity':
            raise DownloadError(
                f'{url}: arrives with Content-Encoding {encoding!r} though none was asked for; a proxy or mirror '
                'compresses it; try another'
            )
        self.start, total = 0, response.length
        if response.status == 206:
            self.start, total = _content_range(headers, url)
        self.remote = Remote(total, headers.get('ETag'), headers.get('Last-Modified'), _md5(response))

    @property
    def tells_its_end(self) -> bool:
        """Whether a cut answer can be told from a whole one: by its length, or by chunks."""
        return self.remote.total is not None or bool(self._response.chunked)

    def read(self, limit: int) -> bytes:
        """At most ``limit`` bytes, as soon as some are there; none at the end, or where the connection was closed.

        Raises:
            Interrupted: The connection broke, or was silent for longer than the timeout.
        """
        try:
            # Not read(): it would wait for all of them, and lose what came before a cut.
            return self._response.read1(limit)
        except (OSError, HTTPException) as error:
            raise Interrupted(f'{self._url}: {_reason(error)}') from error


@contextmanager
def open_answer(url: str, start: int, validator: str | None, timeout: float) -> Iterator[Answer]:
    """Asks for the bytes from ``start`` on, or for all where the file there is not that of ``validator`` any more.

    Servers may give all the same, or (Cloud Storage documents no ``If-Range``) the rest of another file: the caller
    must look at ``Answer.start`` and ``Answer.remote``.

    Args:
        url: ``http`` or ``https``. Proxies are taken from the environment.
        start: First byte asked for.
        validator: :attr:`Remote.validator` of the bytes before ``start``.
        timeout: Seconds without a single byte.

    Raises:
        Interrupted: It may work later.
        DownloadError: It will not.
    """
    # No transparent compression: lengths, ranges and checksums are those of the file itself.
    headers = {'Accept-Encoding': 'identity', 'User-Agent': 'mmoid'}
    if start:
        headers |= {'Range': f'bytes={start}-', **({'If-Range': validator} if validator else {})}
    try:
        response = _opener().open(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        with error:
            raise _refusal(url, start, error) from error
    except (InvalidURL, UnicodeError) as error:
        raise DownloadError(f'{url}: is no usable address ({error})') from error
    except (OSError, HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, (str, ssl.SSLCertVerificationError)):
            raise DownloadError(f'{url}: cannot be opened ({cause})') from error
        raise Interrupted(f'{url}: {_reason(error)}') from error
    with response:
        yield Answer(response, url)


def require_http(url: str) -> None:
    """Raises DownloadError unless ``url`` is an address of http or https with a host."""
    parts = urlsplit(url)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise DownloadError(f'{url}: is no address to download from; expected one like https://host/path')


def _opener() -> OpenerDirector:
    # urllib's default one also opens file: and ftp: addresses, to which a redirect could lead.
    opener = OpenerDirector()
    handlers = (ProxyHandler, UnknownHandler, HTTPHandler, HTTPSHandler, HTTPDefaultErrorHandler, HTTPRedirectHandler,
                HTTPErrorProcessor)  # fmt: skip
    for handler in handlers:
        opener.add_handler(handler())
    return opener


def _refusal(url: str, start: int, error: HTTPError) -> Exception:
    message = f'{url}: the server answers {error.code} {error.reason}'
    if error.code == 416 and start:
        return RangeRefused(message)
    if error.code >= 500 or error.code in _TRY_LATER:
        seconds = error.headers.get('Retry-After', '') if error.headers else ''
        return Interrupted(message, float(seconds) if seconds.isdecimal() else None)
    if error.code in (404, 410):
        return DownloadError(f'{message}; there is no such file: check the address, or give another mirror')
    if error.code in (401, 403, 407):
        return DownloadError(f'{message}; it is not open to you: check proxy and mirror, or download it by hand')
    return DownloadError(message)


def _content_range(headers: Message, url: str) -> tuple[int, int | None]:
    text = headers.get('Content-Range', '')
    match = re.fullmatch(r'bytes (\d+)-\d+/(\d+|\*)', text.strip())
    if not match:
        raise DownloadError(f'{url}: answers with a part but Content-Range {text!r}; the server is broken, use another')
    return int(match[1]), None if match[2] == '*' else int(match[2])


def _md5(response: HTTPResponse) -> str | None:
    """MD5 of the whole file where the headers tell it."""
    headers = response.headers
    sums = [part.strip() for line in headers.get_all('x-goog-hash', []) for part in line.split(',')]
    found = [part[len('md5=') :] for part in sums if part.startswith('md5=')]
    if headers.get('x-goog-stored-content-encoding', 'identity') != 'identity':
        found = []  # of the compressed file that Cloud Storage holds, not of what it sends
    if response.status == 200:
        found += headers.get_all('Content-MD5', [])  # with 206 it would be of the part
    for text in found:
        try:
            digest = base64.b64decode(text, validate=True)
        except binascii.Error:
            continue
        if len(digest) == 16:
            return digest.hex()
    return None


def _reason(error: BaseException) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    return str(cause) or type(cause).__name__
