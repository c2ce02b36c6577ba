"""Downloads images one by one from the public bucket of Open Images: in parallel, resumed, checked, with retries."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import random
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePath
from urllib.parse import quote, urlsplit

from PIL import Image

from mmoid.utils.atomic import remove_abandoned

BUCKET = 'https://open-images-dataset.s3.amazonaws.com'
MISSING = (403, 404, 410)
"""S3 answers 403 for a file that it does not have."""


@dataclass(frozen=True)
class Outcome:
    """What became of one image."""

    image_id: str
    num_bytes: int = 0  # downloaded
    problem: str = ''  # why it is not there


@dataclass(frozen=True)
class Source:
    """Where images come from, and how patiently."""

    url: str  # folder of ``<image id>.jpg``, such as ``https://open-images-dataset.s3.amazonaws.com/train``
    retries: int = 5  # attempts after the first one that fails
    timeout: float = 30.0  # seconds without a byte after which an attempt has failed
    pause: float = 1.0  # seconds before the first retry; doubled for each further one; the server may ask for more


def download_images(image_ids: Sequence[str], source: Source, folder: Path, workers: int = 16) -> Iterator[Outcome]:
    """Downloads ``<folder>/<image id>.jpg`` for each id and yields the outcomes as they come.

    A file that is there is kept. A file takes its name when it is complete: it has the length that the server gave, and
    the MD5 if the server gave one; otherwise it must decode. Ids have no extension, and each comes once. ``workers`` is
    the number of connections at a time.

    Raises:
        OSError: The folder cannot be written.
        ValueError: An id that is no file name.
    """
    for image_id in image_ids:
        if PurePath(image_id).name != image_id:
            raise ValueError(f'{image_id!r} is not an image id')
    folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder, '.writing-*')
    there = {entry.name for entry in os.scandir(folder) if entry.stat().st_size}
    stop = threading.Event()
    connection = _Connection(source, stop)

    def work(image_id: str) -> Outcome:
        name = f'{image_id}.jpg'
        return Outcome(image_id) if name in there else connection.fetch(image_id, folder / name)

    with ThreadPool(workers) as pool:
        try:
            yield from pool.imap_unordered(work, image_ids, chunksize=4)  # one at a time takes 200 bytes for each id
        finally:
            stop.set()


class _Connection(threading.local):
    """A connection for each thread that uses it, kept open from one image to the next."""

    def __init__(self, source: Source, stop: threading.Event) -> None:
        self.source, self.stop = source, stop
        self.address = urlsplit(source.url)
        kind = http.client.HTTPSConnection if self.address.scheme == 'https' else http.client.HTTPConnection
        self.http = kind(self.address.netloc, timeout=source.timeout)
        self.asked_to_wait = 0.0  # seconds

    def fetch(self, image_id: str, path: Path) -> Outcome:
        problem = 'stopped'
        for attempt in range(self.source.retries + 1):
            pause = self.source.pause * 2 ** (attempt - 1) * random.uniform(0.5, 1.0) if attempt else 0.0
            if self.stop.wait(max(pause, self.asked_to_wait)):
                break
            try:
                self.http.request('GET', f'{self.address.path}/{quote(image_id, safe="")}.jpg')
                answer = self.http.getresponse()
                content = answer.read()
            except (http.client.HTTPException, OSError) as error:
                problem = f'{type(error).__name__}: {error}'
                self.http.close()  # the next request opens it again
                continue
            seconds = answer.headers.get('Retry-After', '')
            self.asked_to_wait = float(seconds) if seconds.isdecimal() else 0.0
            if answer.status in MISSING:
                return Outcome(image_id, problem=f'the server does not have it ({answer.status})')
            problem = _problem(answer, content)
            if not problem:
                # Not by atomic_write, which lists the folder and waits for the disk: there are up to 1.7 million files.
                temporary = path.with_name(f'.writing-{os.getpid()}-{threading.get_ident()}')
                temporary.write_bytes(content)
                temporary.replace(path)
                return Outcome(image_id, len(content))
        return Outcome(image_id, problem=problem)


def _problem(answer: http.client.HTTPResponse, content: bytes) -> str:
    """Why an answer is not the image; empty if it is."""
    if answer.status != 200:
        return f'the server answered {answer.status} {answer.reason}'
    md5 = answer.headers.get('ETag', '').strip('"')
    if re.fullmatch('[0-9a-f]{32}', md5):  # of a file that was uploaded in parts it is no MD5, and has a dash
        return '' if hashlib.md5(content).hexdigest() == md5 else 'the MD5 is wrong'
    try:
        Image.open(io.BytesIO(content)).load()
    except Exception as error:  # Pillow raises many kinds for broken files
        return f'not an image: {error}'
    return ''
