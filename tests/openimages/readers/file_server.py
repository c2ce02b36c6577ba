"""A real HTTP server on 127.0.0.1 that can be told to misbehave, request by request."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATIENCE = 20.0
"""Seconds after which a server that was told to be silent gives up; a test that waits so long has failed."""


@dataclass
class Behaviour:
    """How one request is answered; as it should be, by default."""

    status: int | None = None  # an error, without a body
    stall: bool = False  # silence before anything, until ``server.go_on`` is set
    headers: dict[str, str | None] = field(default_factory=dict)  # to add; None takes one away
    content: bytes | None = None  # served from now on, under another entity tag
    cut_after: int | None = None  # bytes of the body, then the connection is closed
    reset: bool = False  # rudely
    stall_after: int | None = None  # bytes of the body, then silence until ``server.go_on`` is set
    ranges: bool = True
    if_range: bool = True  # False: a range is a range, whatever version it is of
    chunked: bool = False
    hang_on: bool = False  # leaves the connection open after the body


@dataclass
class Asked:
    """What a client asked for."""

    path: str
    start: int  # of the range, 0 without one
    headers: dict[str, str]


class FileServer(ThreadingHTTPServer):
    """Serves ``content`` at every path, or what ``files`` holds, and remembers what was asked."""

    daemon_threads = True

    def __init__(self, content: bytes = b'', files: dict[str, bytes] | None = None) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.content, self.files = content, files
        self.script: list[Behaviour] = []
        self.asked: list[Asked] = []
        self.go_on = threading.Event()
        self.silent = threading.Event()

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}'

    @property
    def starts(self) -> list[int]:
        return [asked.start for asked in self.asked]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are no errors here."""


@contextmanager
def serving(content: bytes = b'', files: dict[str, bytes] | None = None) -> Iterator[FileServer]:
    with FileServer(content, files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.go_on.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = 'HTTP/1.1'

    def do_GET(self) -> None:
        asked_range = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', ''))
        start = int(asked_range[1]) if asked_range else 0
        self.server.asked.append(Asked(self.path, start, dict(self.headers)))
        how = self.server.script.pop(0) if self.server.script else Behaviour()
        if how.stall:
            self.server.silent.set()
            self.server.go_on.wait(PATIENCE)
        if how.content is not None:
            self.server.content = how.content
        content = self.server.content
        if self.server.files is not None:
            if self.path not in self.server.files:
                how = Behaviour(status=404)
            content = self.server.files.get(self.path, b'')
        if how.status is not None:
            return self._send(how.status, {'Content-Length': '0', **how.headers}, b'', how)
        headers: dict[str, str | None] = {
            'ETag': f'"{hashlib.sha1(content).hexdigest()}"',
            'x-goog-hash': 'crc32c=AAAAAA==, md5=' + base64.b64encode(hashlib.md5(content).digest()).decode(),
        }
        condition = self.headers.get('If-Range')
        if not how.ranges or (how.if_range and condition not in (None, headers['ETag'])):
            start = 0
        if start >= len(content) and start:
            return self._send(416, {'Content-Length': '0', 'Content-Range': f'bytes */{len(content)}'}, b'', how)
        if start:
            headers['Content-Range'] = f'bytes {start}-{len(content) - 1}/{len(content)}'
        body = content[start:]
        headers |= {'Transfer-Encoding': 'chunked'} if how.chunked else {'Content-Length': str(len(body))}
        return self._send(206 if start else 200, headers | how.headers, body, how)

    def _send(self, status: int, headers: dict[str, str | None], body: bytes, how: Behaviour) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.send_header('Connection', 'close')
        self.end_headers()
        sent = min(x for x in (how.cut_after, how.stall_after, len(body)) if x is not None)
        if how.chunked and sent:
            self.wfile.write(b'%x\r\n%s\r\n' % (sent, body[:sent]))
        else:
            self.wfile.write(body[:sent])
        if how.stall_after is not None:
            self.server.silent.set()
            self.server.go_on.wait(PATIENCE)
            self.wfile.write(body[sent:])
        elif how.hang_on:
            self.server.go_on.wait(PATIENCE)
        elif how.cut_after is None and how.chunked:
            self.wfile.write(b'0\r\n\r\n')
        self.close_connection = True
        if how.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
