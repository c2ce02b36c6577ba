"""Image files: which are there, and their sizes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmoid.openimages.errors import AnnotationError
from mmoid.utils.progress import Progress, no_progress

EXTENSIONS = ('.jpg', '.jpeg', '.png')
_CHUNK = 512


def find_images(folder: str | Path) -> dict[str, str]:
    """Finds images below a folder, at any depth (Open Images comes in sub-folders ``train_0`` ... ``train_f``).

    Returns:
        Path below ``folder`` by image id, which is the file name without extension.

    Raises:
        AnnotationError: No such folder, or two files of one image id.
    """
    if not Path(folder).is_dir():
        raise AnnotationError(f'{folder}: no such image folder')
    found: dict[str, str] = {}
    for directory, _, names in os.walk(folder, followlinks=True):
        for name in names:
            image_id, extension = os.path.splitext(name)
            if extension.lower() in EXTENSIONS:
                file_name = os.path.relpath(os.path.join(directory, name), folder)
                if found.setdefault(image_id, file_name) != file_name:
                    both = f'{found[image_id]} and {file_name}'
                    raise AnnotationError(f'{folder}: image {image_id!r} is there twice: {both}')
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
    chunks = [file_names[i : i + _CHUNK] for i in range(0, len(file_names), _CHUNK)]
    read = partial(_sizes_of_chunk, str(folder))
    workers = min(os.cpu_count() or 1, len(chunks))
    sizes: list[tuple[int, int]] = []
    if workers <= 1:
        sizes = [size for chunk in chunks for size in read(chunk)]
    else:
        # Not fork: Arrow's threads do not survive it.
        with ProcessPoolExecutor(workers, mp_context=get_context('spawn')) as pool:
            for part in pool.map(read, chunks):
                sizes += part
                progress('reading image sizes', len(sizes), len(file_names))
    table = np.array(sizes, dtype=np.int32).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _sizes_of_chunk(folder: str, file_names: Sequence[str]) -> list[tuple[int, int]]:
    return [_size(os.path.join(folder, name)) for name in file_names]


def _size(path: str) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            width, height = image.size
            # mmcv applies the EXIF orientation when it decodes; the annotated boxes fit the upright image.
            rotated = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (OSError, UnidentifiedImageError) as error:
        raise AnnotationError(f'{path}: not a readable image ({error})') from error
    return (height, width) if rotated else (width, height)
