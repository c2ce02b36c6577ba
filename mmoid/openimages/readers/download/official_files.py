"""The official files of Open Images: one table, and which of its rows belong to a release, a split, a kind.

Published at https://storage.googleapis.com/openimages/web/download_v7.html and the challenge pages of 2018
(https://storage.googleapis.com/openimages/web/challenge.html) and 2019
(https://storage.googleapis.com/openimages/web/challenge2019_downloads.html). A file of V7 is served from the folder of
the version that last changed it.

Google publishes no list of checksums; its server sends an MD5 with each file, which :func:`~.resumable.download`
compares. SHA-256 and exact sizes of 2019 are those that TensorFlow Datasets records
(``tensorflow_datasets/datasets/open_images_challenge2019_detection/checksums.tsv``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmoid.openimages.errors import AnnotationError

BASE_URL = 'https://storage.googleapis.com/openimages'
SPLITS = ('train', 'validation', 'test')
KINDS = ('classes', 'hierarchy', 'boxes', 'labels', 'images')
CONVERTED_KINDS = KINDS[:4]
"""What ``prepare_openimages.py`` reads. The image lists (addresses, authors, licences) are for people."""


@dataclass(frozen=True)
class OfficialFile:
    """One row of the table.

    Attributes:
        release: ``v7`` (600 classes; it took over the boxes of V4 to V6), ``challenge-2019`` or ``challenge-2018``.
        kind: One of :data:`KINDS`. ``labels`` are the human-verified image-level labels of the boxable classes.
        split: One of :data:`SPLITS`; None where one file serves all.
        url: Where Google serves it.
        num_bytes: Its size; exact where ``sha256`` is given, else as rounded as where it was read. None is unknown.
        sha256: Of the file, in hexadecimal; None where nobody publishes it.
    """

    release: str
    kind: Literal['classes', 'hierarchy', 'boxes', 'labels', 'images']
    split: Literal['train', 'validation', 'test'] | None
    url: str
    num_bytes: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The file's name on disk, the one that Google gave it."""
        return self.url.rpartition('/')[2]

    @property
    def exact_bytes(self) -> int | None:
        """``num_bytes`` where it is exact, else None."""
        return self.num_bytes if self.sha256 else None

    def url_at(self, mirror: str | None) -> str:
        """``url``, or where a mirror of ``BASE_URL`` serves the same file."""
        return self.url if mirror is None else self.url.replace(BASE_URL, mirror.rstrip('/'), 1)


_KB, _MB, _MIB, _GIB = 10**3, 10**6, 2**20, 2**30
# fmt: off
OFFICIAL_FILES = (
    OfficialFile('v7', 'classes', None, f'{BASE_URL}/v5/class-descriptions-boxable.csv', 12 * _KB),
    OfficialFile('v7', 'hierarchy', None, f'{BASE_URL}/2018_04/bbox_labels_600_hierarchy.json', 86 * _KB),
    OfficialFile('v7', 'boxes', 'train', f'{BASE_URL}/v6/oidv6-train-annotations-bbox.csv', round(2.1 * _GIB)),
    OfficialFile('v7', 'boxes', 'validation', f'{BASE_URL}/v5/validation-annotations-bbox.csv', round(23.94 * _MIB)),
    OfficialFile('v7', 'boxes', 'test', f'{BASE_URL}/v5/test-annotations-bbox.csv', round(73.89 * _MIB)),
    OfficialFile('v7', 'labels', 'train', f'{BASE_URL}/v5/train-annotations-human-imagelabels-boxable.csv'),
    OfficialFile('v7', 'labels', 'validation', f'{BASE_URL}/v5/validation-annotations-human-imagelabels-boxable.csv'),
    OfficialFile('v7', 'labels', 'test', f'{BASE_URL}/v5/test-annotations-human-imagelabels-boxable.csv'),
    OfficialFile('v7', 'images', 'train', f'{BASE_URL}/2018_04/train/train-images-boxable-with-rotation.csv',
                 round(608.83 * _MIB)),
    OfficialFile('v7', 'images', 'validation', f'{BASE_URL}/2018_04/validation/validation-images-with-rotation.csv',
                 round(14.54 * _MIB)),
    OfficialFile('v7', 'images', 'test', f'{BASE_URL}/2018_04/test/test-images-with-rotation.csv',
                 round(43.13 * _MIB)),

    OfficialFile('challenge-2019', 'classes', None,
                 f'{BASE_URL}/challenge_2019/challenge-2019-classes-description-500.csv',
                 9237, 'b84ed490a4f1cd1fe44adb2d4b5b7a3d25a70b450d34bd82d377527c379d3e03'),
    OfficialFile('challenge-2019', 'hierarchy', None,
                 f'{BASE_URL}/challenge_2019/challenge-2019-label500-hierarchy.json',
                 44428, 'dcba144d2230d01ace9f2b1ef1b54df65e29f855356ed51cfc4f6e10300d7d8b'),
    OfficialFile('challenge-2019', 'boxes', 'train',
                 f'{BASE_URL}/challenge_2019/challenge-2019-train-detection-bbox.csv',
                 996981249, '69b9ae566c4f8e51b02af8daaa891830878a4db8e66f873e40a1f77eb10a6e66'),
    OfficialFile('challenge-2019', 'boxes', 'validation',
                 f'{BASE_URL}/challenge_2019/challenge-2019-validation-detection-bbox.csv',
                 14918907, '3ffee3420c2810fe89b045ee2cacf2649870d40f14b15c34e12db1b688e3bf95'),
    OfficialFile('challenge-2019', 'labels', 'train',
                 f'{BASE_URL}/challenge_2019/challenge-2019-train-detection-human-imagelabels.csv',
                 240365679, '3e293861a20064cd0d4e54f7947d3c18a4607c68e515ef315951454d4fada94f'),
    OfficialFile('challenge-2019', 'labels', 'validation',
                 f'{BASE_URL}/challenge_2019/challenge-2019-validation-detection-human-imagelabels.csv',
                 5502115, '0169a243664eeb82dbee3b2d2500db909d5f257d74780acc0ebd6853d1136e68'),
    OfficialFile('challenge-2019', 'images', 'train',
                 f'{BASE_URL}/2018_04/train/train-images-boxable-with-rotation.csv', round(608.83 * _MIB)),
    OfficialFile('challenge-2019', 'images', 'validation',
                 f'{BASE_URL}/2018_04/validation/validation-images-with-rotation.csv', round(14.54 * _MIB)),

    # The challenge of 2018 has the same 500 classes; only the list of 2019 is at an address that could be confirmed.
    OfficialFile('challenge-2018', 'classes', None,
                 f'{BASE_URL}/challenge_2019/challenge-2019-classes-description-500.csv',
                 9237, 'b84ed490a4f1cd1fe44adb2d4b5b7a3d25a70b450d34bd82d377527c379d3e03'),
    OfficialFile('challenge-2018', 'hierarchy', None,
                 f'{BASE_URL}/challenge_2018/bbox_labels_500_hierarchy.json', 46 * _KB),
    OfficialFile('challenge-2018', 'boxes', 'train',
                 f'{BASE_URL}/challenge_2018/train/challenge-2018-train-annotations-bbox.csv'),
    OfficialFile('challenge-2018', 'labels', 'train',
                 f'{BASE_URL}/challenge_2018/train/challenge-2018-train-annotations-human-imagelabels.csv'),
    OfficialFile('challenge-2018', 'images', 'train',
                 f'{BASE_URL}/2018_04/train/train-images-boxable-with-rotation.csv', round(608.83 * _MIB)),
)
# fmt: on
RELEASES = tuple(dict.fromkeys(row.release for row in OFFICIAL_FILES))


def splits_of(release: str) -> tuple[str, ...]:
    """The splits that a release has annotations of, in the order of :data:`SPLITS`.

    Raises:
        AnnotationError: No such release.
    """
    if release not in RELEASES:
        raise AnnotationError(f'release {release!r} is not one of {", ".join(RELEASES)}')
    return tuple(split for split in SPLITS if any(row.split == split for row in _rows(release)))


def select_files(release: str, splits: Sequence[str], kinds: Sequence[str]) -> list[OfficialFile]:
    """Rows of one release, in the order of the table: what all splits need is small and comes first.

    Args:
        release: One of :data:`RELEASES`.
        splits: Some of :func:`splits_of` it. Files that serve all splits come with any.
        kinds: Some of :data:`KINDS`.

    Raises:
        AnnotationError: A release, split or kind that there is not.
    """
    known = splits_of(release)
    for what, given, allowed in (('split', splits, known), ('kind', kinds, KINDS)):
        for value in given:
            if value not in allowed:
                raise AnnotationError(f'{release} has no {what} {value!r}; it has {", ".join(allowed)}')
    return [row for row in _rows(release) if row.kind in kinds and (row.split is None or row.split in splits)]


def prepare_arguments(release: str, split: str, folder: str | Path) -> list[str] | None:
    """What ``prepare_openimages.py`` is to be told about the files of one split.

    Returns:
        ``['--boxes', path, '--labels', path, ...]``, or None while one of the files is not in ``folder``.
    """
    arguments = []
    for row in select_files(release, [split], CONVERTED_KINDS):
        path = Path(folder) / row.name
        if not path.is_file():
            return None
        arguments += [f'--{row.kind}', str(path)]
    return arguments


def _rows(release: str) -> list[OfficialFile]:
    return [row for row in OFFICIAL_FILES if row.release == release]
