"""The official files of Open Images: a table of what Google publishes, and a download that resumes and verifies.

Sources: https://storage.googleapis.com/openimages/web/download_v7.html, challenge.html (2018) and
challenge2019_downloads.html there. V7 serves a file from the folder of the version that last changed it. Google
publishes no checksums, but its server sends an MD5. TensorFlow Datasets records the SHA-256 sums and sizes of 2019
(``tensorflow_datasets/datasets/open_images_challenge2019_detection/checksums.tsv``).
"""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmoid.openimages.store.writing import file_digest

BASE_URL = 'https://storage.googleapis.com/openimages'
SPLITS = ('train', 'validation', 'test')
KINDS = ('classes', 'hierarchy', 'boxes', 'labels', 'images')
CONVERTED_KINDS = KINDS[:4]
"""What ``prepare_openimages.py`` reads. ``images`` are lists of addresses, authors and licences."""

RETRIES = 5
_CURL = ('curl', '--fail', '--location', '--connect-timeout', '30', '--speed-limit', '1', '--speed-time', '60')

# Release, kind, split (- is all), path below BASE_URL, bytes (- is unknown; rounded by the source without a SHA-256).
# Challenge 2018 has the classes of 2019; the address of its own list could not be confirmed.
_FILES = """
v7 classes - v5/class-descriptions-boxable.csv 12000
v7 hierarchy - 2018_04/bbox_labels_600_hierarchy.json 86000
v7 boxes train v6/oidv6-train-annotations-bbox.csv 2254857830
v7 boxes validation v5/validation-annotations-bbox.csv 25102909
v7 boxes test v5/test-annotations-bbox.csv 77479281
v7 labels train v5/train-annotations-human-imagelabels-boxable.csv -
v7 labels validation v5/validation-annotations-human-imagelabels-boxable.csv -
v7 labels test v5/test-annotations-human-imagelabels-boxable.csv -
v7 images train 2018_04/train/train-images-boxable-with-rotation.csv 638404526
v7 images validation 2018_04/validation/validation-images-with-rotation.csv 15246295
v7 images test 2018_04/test/test-images-with-rotation.csv 45225083
challenge-2019 classes - challenge_2019/challenge-2019-classes-description-500.csv 9237
challenge-2019 hierarchy - challenge_2019/challenge-2019-label500-hierarchy.json 44428
challenge-2019 boxes train challenge_2019/challenge-2019-train-detection-bbox.csv 996981249
challenge-2019 boxes validation challenge_2019/challenge-2019-validation-detection-bbox.csv 14918907
challenge-2019 labels train challenge_2019/challenge-2019-train-detection-human-imagelabels.csv 240365679
challenge-2019 labels validation challenge_2019/challenge-2019-validation-detection-human-imagelabels.csv 5502115
challenge-2019 images train 2018_04/train/train-images-boxable-with-rotation.csv 638404526
challenge-2019 images validation 2018_04/validation/validation-images-with-rotation.csv 15246295
challenge-2018 classes - challenge_2019/challenge-2019-classes-description-500.csv 9237
challenge-2018 hierarchy - challenge_2018/bbox_labels_500_hierarchy.json 46000
challenge-2018 boxes train challenge_2018/train/challenge-2018-train-annotations-bbox.csv -
challenge-2018 labels train challenge_2018/train/challenge-2018-train-annotations-human-imagelabels.csv -
challenge-2018 images train 2018_04/train/train-images-boxable-with-rotation.csv 638404526
"""
# Names without "challenge-2019-".
_SHA256 = """
b84ed490a4f1cd1fe44adb2d4b5b7a3d25a70b450d34bd82d377527c379d3e03 classes-description-500.csv
dcba144d2230d01ace9f2b1ef1b54df65e29f855356ed51cfc4f6e10300d7d8b label500-hierarchy.json
69b9ae566c4f8e51b02af8daaa891830878a4db8e66f873e40a1f77eb10a6e66 train-detection-bbox.csv
3ffee3420c2810fe89b045ee2cacf2649870d40f14b15c34e12db1b688e3bf95 validation-detection-bbox.csv
3e293861a20064cd0d4e54f7947d3c18a4607c68e515ef315951454d4fada94f train-detection-human-imagelabels.csv
0169a243664eeb82dbee3b2d2500db909d5f257d74780acc0ebd6853d1136e68 validation-detection-human-imagelabels.csv
"""


@dataclass(frozen=True)
class OfficialFile:
    """One published file, ``path`` below :data:`BASE_URL`. ``split`` is None if one file serves all splits.

    ``num_bytes`` is exact if ``sha256`` is known, else rounded. Both may be None.
    """

    release: str
    kind: str
    split: str | None
    path: str
    num_bytes: int | None
    sha256: str | None

    @property
    def name(self) -> str:
        """File name on disk."""
        return self.path.rpartition('/')[2]

    def url(self, mirror: str | None = None) -> str:
        """Its address at Google, or at a mirror of :data:`BASE_URL`."""
        return f'{(mirror or BASE_URL).rstrip("/")}/{self.path}'


_SUMS = {name: digest for digest, name in map(str.split, _SHA256.strip().splitlines())}
OFFICIAL_FILES = tuple(
    OfficialFile(
        release,
        kind,
        split=None if split == '-' else split,
        path=path,
        num_bytes=None if size == '-' else int(size),
        sha256=_SUMS.get(path.removeprefix('challenge_2019/challenge-2019-')),
    )
    for release, kind, split, path, size in map(str.split, _FILES.strip().splitlines())
)
RELEASES = tuple(dict.fromkeys(file.release for file in OFFICIAL_FILES))


def splits_of(release: str) -> tuple[str, ...]:
    """The splits that a release has annotations of, in the order of :data:`SPLITS`."""
    return tuple(s for s in SPLITS if any((f.release, f.split) == (release, s) for f in OFFICIAL_FILES))


def select_files(release: str, splits: Sequence[str], kinds: Sequence[str]) -> list[OfficialFile]:
    """The files of one release, those that serve all splits first.

    Raises:
        ValueError: A split that the release does not have.
    """
    for split in splits:
        if split not in splits_of(release):
            raise ValueError(f'{release} has no split {split!r}; it has {", ".join(splits_of(release))}')
    files = [file for file in OFFICIAL_FILES if file.release == release and file.kind in kinds]
    return [file for file in files if file.split is None or file.split in splits]


def prepare_arguments(release: str, split: str, folder: Path) -> list[str] | None:
    """Arguments of ``prepare_openimages.py`` for the files of one split; None while one is not in ``folder``."""
    files = select_files(release, [split], CONVERTED_KINDS)
    if not all((folder / file.name).is_file() for file in files):
        return None
    return [word for file in files for word in (f'--{file.kind}', str(folder / file.name))]


def part_path(path: Path) -> Path:
    """Where the bytes of a file are until it is complete and verified."""
    return path.with_name(f'{path.name}.part')


def bytes_there(path: Path) -> int:
    """Bytes on disk of a file, or of its part."""
    return next((file.stat().st_size for file in (path, part_path(path)) if file.exists()), 0)


def download(url: str, path: Path, sha256: str | None = None) -> str:
    """Downloads a file with ``curl``, or what is missing of it, and verifies it. An existing file is only verified.

    Without a ``sha256``, hexadecimal, the MD5 that the server sends is compared.

    Returns:
        What the file was verified by: ``SHA-256``, ``MD5 of the server``, ``size`` or ``nothing``.

    Raises:
        OSError: The server does not send the file, or the file has another checksum or size.
    """
    if path.exists():
        if sha256 is None:
            return 'nothing'
        _require_digest(path, 'sha256', sha256, f'{path}: is another file; move it away and run again')
        return 'SHA-256'
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_path(path)
    size, md5 = _ask_server(url)
    _fetch(url, part, size)
    algorithm, expected = ('sha256', sha256) if sha256 else ('md5', md5)
    try:
        if size is not None and part.stat().st_size != size:
            raise OSError(f'{url}: {part.stat().st_size:,} bytes arrived, expected {size:,}')
        if expected is not None:
            _require_digest(part, algorithm, expected, f'{url}: arrived damaged, or is another file')
    except OSError:
        part.unlink()  # nobody can tell which of its bytes are right
        raise
    part.replace(path)
    return 'SHA-256' if sha256 else 'MD5 of the server' if md5 else 'size'


def _ask_server(url: str) -> tuple[int | None, str | None]:
    """Size and MD5 (hexadecimal) that the server sends, or None."""
    command = [*_CURL, '--silent', '--show-error', '--head', '--retry', str(RETRIES), '--', url]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f'{url}: {done.stderr.strip()}; check the address and the proxy, or give another mirror')
    headers = re.split(r'\r?\n\r?\n', done.stdout.strip())[-1]  # the last of those along redirects
    length = re.search(r'^content-length: *(\d+)', headers, re.IGNORECASE | re.MULTILINE)
    md5 = re.search(r'^x-goog-hash:.*\bmd5=([\w+/]+=*)', headers, re.IGNORECASE | re.MULTILINE)
    # Of a file that is stored compressed, the server sends the MD5 of the compressed bytes.
    if re.search(r'^x-goog-stored-content-encoding: *(?!identity)', headers, re.IGNORECASE | re.MULTILINE):
        md5 = None
    return int(length[1]) if length else None, base64.b64decode(md5[1]).hex() if md5 else None


def _fetch(url: str, part: Path, size: int | None) -> None:
    """Runs curl until the part is complete. Only runs without a new byte count as failures."""
    display = ['--progress-bar'] if sys.stderr.isatty() else ['--silent', '--show-error']
    part.touch()
    failures = 0
    while size is None or part.stat().st_size < size:
        before = part.stat().st_size
        # Not curl's own --retry: it drops the bytes of the failed attempt.
        code = subprocess.run([*_CURL, *display, '--continue-at', '-', '--output', str(part), '--', url]).returncode
        if code == 0:
            return
        failures = 0 if part.stat().st_size > before else failures + 1
        if failures > RETRIES:
            raise OSError(f'{url}: curl fails with status {code}; run again to resume at byte {before:,}')
        time.sleep(2**failures - 1)


def _require_digest(path: Path, algorithm: str, expected: str, complaint: str) -> None:
    found = file_digest(path, algorithm)
    if found != expected:
        raise OSError(f'{complaint}: its {algorithm.upper()} is {found}, expected {expected}')
