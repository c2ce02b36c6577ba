"""Image files: which are there, and how large their pictures are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmoid.openimages.errors import AnnotationError
from mmoid.utils.progress import Progress, no_progress

EXTENSIONS = ('.jpg', '.jpeg', '.png')


def find_images(folder: str | Path) -> dict[str, str]:
    """Finds pictures below a folder, at any depth (Open Images comes in sub-folders ``train_0`` ... ``train_f``).

    Returns:
        Path below ``folder`` by image id, the file name without extension.

    Raises:
        AnnotationError: No such folder, or one image id in two places.
    """
    if not Path(folder).is_dir():
        raise AnnotationError(f'{folder}: no such image folder')
    found: dict[str, str] = {}
    for file_name in _picture_names(str(folder)):
        image_id = os.path.splitext(os.path.basename(file_name))[0]
        if image_id in found:
            raise AnnotationError(f'{folder}: image {image_id!r} is there twice: {found[image_id]} and {file_name}')
        found[image_id] = file_name
    return found


def read_sizes(
    folder: str | Path, file_names: Sequence[str], progress: Progress = no_progress, num_workers: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads widths and heights from file headers, in parallel; pixels are not decoded.

    Args:
        folder: What the names are relative to.
        file_names: N picture files.
        progress: Told every few hundred files.
        num_workers: Processes; the number of cores if None.

    Returns:
        (N,) int32 widths and (N,) int32 heights, pixels, of the upright picture (EXIF orientation applied).

    Raises:
        AnnotationError: A file that is no readable picture.
    """
    chunk = 512
    chunks = [file_names[i : i + chunk] for i in range(0, len(file_names), chunk)]
    workers = min(num_workers or os.cpu_count() or 1, max(1, len(chunks)))
    read = partial(_sizes_of_chunk, str(folder))
    sizes: list[tuple[int, int]] = []
    if workers == 1:
        for part in map(read, chunks):
            sizes += part
            progress('reading image sizes', len(sizes), len(file_names))
    else:
        # Not fork: the caller may hold threads (Arrow's pool), which do not survive one.
        with ProcessPoolExecutor(workers, mp_context=get_context('spawn')) as pool:
            for part in pool.map(read, chunks):
                sizes += part
                progress('reading image sizes', len(sizes), len(file_names))
    table = np.array(sizes, dtype=np.int32).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def stored_folder(images: str | Path, store: str | Path) -> str:
    """The image folder as a store's metadata has it: relative where both lie in one folder and can move together."""
    folder, home = Path(images).resolve(), Path(store).resolve()
    return os.path.relpath(folder, home) if folder.is_relative_to(home.parent) else str(folder)


def _sizes_of_chunk(folder: str, file_names: Sequence[str]) -> list[tuple[int, int]]:
    return [_size(os.path.join(folder, name)) for name in file_names]


def _size(path: str) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            width, height = image.size
            # mmcv decodes with EXIF orientation applied; the annotated boxes fit the upright picture.
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (OSError, UnidentifiedImageError) as error:
        raise AnnotationError(f'{path}: no readable picture ({error})') from error
    return (height, width) if turned else (width, height)


def _picture_names(folder: str) -> Iterator[str]:
    for directory, _, names in os.walk(folder, followlinks=True):
        below = os.path.relpath(directory, folder)
        for name in names:
            if name.lower().endswith(EXTENSIONS):
                yield name if below == '.' else os.path.join(below, name)
