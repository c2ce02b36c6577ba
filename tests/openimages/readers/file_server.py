"""An HTTP server on 127.0.0.1 that serves ranges, as Google's does, and can cut connections."""

import base64
import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves ``content`` at every path, or what ``files`` holds."""

    def __init__(self, content: bytes, files: dict[str, bytes] | None) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.content, self.files = content, files
        self.cuts: list[int] = []  # bytes after which the next answers end
        self.asked: list[tuple[str, int]] = []  # path and first byte of each GET
        self.sends_md5 = True
        self.faults: dict[str, list[str]] = {}  # of the next GETs of a path: 'stall', 'cut', 'busy', 'damage'
        self.stalled = threading.Event()

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}'

    def handle_error(self, *args: object) -> None:
        """Clients that close the connection are not errors here."""


@contextmanager
def serving(content: bytes = b'', files: dict[str, bytes] | None = None) -> Iterator[FileServer]:
    with FileServer(content, files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_HEAD(self) -> None:
        self._answer(0)

    def do_GET(self) -> None:
        match = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', ''))
        start = int(match[1]) if match else 0
        self.server.asked.append((self.path, start))
        faults = self.server.faults.get(self.path)
        fault = faults.pop(0) if faults else ''
        if fault == 'busy':
            self.send_response(503)
            self.send_header('Retry-After', '0')
            self.end_headers()
            return
        body = self._answer(start)
        if fault == 'stall':
            self.server.stalled.wait(10)
        elif fault == 'damage':
            body = bytes([body[0] ^ 255]) + body[1:]
        elif fault == 'cut':
            body = body[: len(body) // 2]
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def _answer(self, start: int) -> bytes:
        files = self.server.files
        content = self.server.content if files is None else files.get(self.path)
        if content is None:
            self.send_error(404)
            return b''
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(content) - start))
        if start:
            self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
        if self.server.sends_md5:
            digest = base64.b64encode(hashlib.md5(content).digest()).decode()
            self.send_header('x-goog-hash', f'crc32c=AAAAAA==, md5={digest}')
            self.send_header('ETag', f'"{hashlib.md5(content).hexdigest()}"')
        self.end_headers()
        return content[start:]

    def log_message(self, format: str, *args: object) -> None:
        """No log."""
