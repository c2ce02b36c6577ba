"""Image files: which are there, and their sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmoid.openimages.errors import AnnotationError
from mmoid.utils.progress import Progress, no_progress

EXTENSIONS = ('.jpg', '.jpeg', '.png')
_CHUNK = 512


def files_below(folder: str | Path) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, with ``/``.

    Raises:
        AnnotationError: No such folder.
    """
    if not Path(folder).is_dir():
        raise AnnotationError(f'{folder}: no such image folder')
    for directory, _, names in os.walk(folder, followlinks=True):
        below = Path(os.path.relpath(directory, folder)).as_posix()
        yield from names if below == '.' else (f'{below}/{name}' for name in names)


def find_images(folder: str | Path) -> dict[str, str]:
    """Finds images below a folder, at any depth (Open Images comes in sub-folders ``train_0`` ... ``train_f``).

    Returns:
        Path below ``folder`` by image id, which is the file name without extension.

    Raises:
        AnnotationError: No such folder, or two files of one image id.
    """
    found: dict[str, str] = {}
    for path in files_below(folder):
        image_id, extension = os.path.splitext(path.rpartition('/')[2])
        if extension.lower() in EXTENSIONS and found.setdefault(image_id, path) != path:
            raise AnnotationError(f'{folder}: image {image_id!r} is there twice: {found[image_id]} and {path}')
    return found


def read_sizes(
    folder: str | Path, file_names: Sequence[str], progress: Progress = no_progress
) -> tuple[np.ndarray, np.ndarray]:
    """Reads widths and heights from file headers, in parallel; pixels are not decoded.

    Args:
        folder: Where the names start from.
        file_names: N image files.
        progress: Callback.

    Returns:
        (N,) int32 widths and (N,) int32 heights, pixels, of the upright image (EXIF orientation applied).

    Raises:
        AnnotationError: A file that is not a readable image.
    """
    paths = [os.path.join(folder, name) for name in file_names]
    table: np.ndarray = np.empty((len(paths), 2), dtype=np.int32)
    if len(paths) <= _CHUNK:
        table[:] = [_size(path) for path in paths]
        return table[:, 0], table[:, 1]
    # Not fork: Arrow's threads do not survive it.
    with ProcessPoolExecutor(mp_context=get_context('spawn')) as pool:
        for row, size in enumerate(pool.map(_size, paths, chunksize=_CHUNK)):
            table[row] = size
            if row % _CHUNK == 0:
                progress('reading image sizes', row, len(paths))
    progress('reading image sizes', len(paths), len(paths))
    return table[:, 0], table[:, 1]


def _size(path: str) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            width, height = image.size
            # mmcv applies the EXIF orientation when it decodes; the annotated boxes fit the upright image.
            rotated = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (OSError, UnidentifiedImageError) as error:
        raise AnnotationError(f'{path}: not a readable image ({error})') from error
    return (height, width) if rotated else (width, height)
