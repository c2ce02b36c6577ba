"""Image files: which are there, and their sizes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.image_ids import EXTENSIONS, match_images, spellings
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import Content, MissingImages, file_digest
from mmoid.utils.progress import Progress, no_progress

OPENCV_FORMATS = ('JPEG', 'PNG', 'BMP', 'WEBP', 'TIFF')
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


def images_below(folder: str | Path) -> pa.Array:
    """Paths of the images below a folder, at any depth, sorted. Hidden files, as macOS makes, are none."""
    names = ((path, path.rpartition('/')[2]) for path in files_below(folder))
    images = [path for path, name in names if name[0] != '.' and name.lower().endswith(EXTENSIONS)]
    return pa.array(sorted(images), pa.string())


def find_images(folder: str | Path, names: pa.Array, summary: Summary) -> pa.Array:
    """Finds images below a folder, at any depth (Open Images comes in sub-folders ``train_0`` ... ``train_f``).

    Copies of an image, as OIDv4_ToolKit puts into the folder of each class, are taken once and counted.

    Returns:
        (N,) paths below ``folder`` of images with (N,) ids in any spelling; null where there is none.

    Raises:
        AnnotationError: No such folder, or different files of one image.
    """
    files = images_below(folder)
    index = match_images(names, files)
    rows = np.flatnonzero(index < 0)
    lost = dict(zip(spellings(names.take(pa.array(rows)))[0].to_pylist(), rows))
    candidates: dict[str, list[int]] = {}
    for i, stem in enumerate(spellings(files)[0].to_pylist() if lost else ()):
        if stem in lost:
            candidates.setdefault(stem, []).append(i)
    for stem, found in candidates.items():
        paths = [files[i].as_py() for i in found]
        if len({file_digest(os.path.join(folder, path), 'sha256') for path in paths}) > 1:
            raise AnnotationError(
                f'{folder}: different files of image {stem!r}: {", ".join(paths)}; give the folder of one of them'
            )
        summary.change('copies of an image file taken once', len(paths) - 1, paths[1])
        index[lost[stem]] = found[0]
    return files.take(pa.array(np.where(index < 0, 0, index), mask=index < 0))


def with_found_files(content: Content, folder: str | Path, missing_images: MissingImages) -> Content:
    """Sets the paths of images to those of :func:`find_images`. Images without a file are an error, or dropped."""
    found = find_images(folder, content.images['file_name'].combine_chunks(), content.summary)
    exists = found.is_valid().to_numpy(zero_copy_only=False)
    return content.with_columns(file_name=found).with_files(exists, folder, missing_images)


def read_sizes(
    folder: str | Path, file_names: Sequence[str], progress: Progress = no_progress, decode: bool = False
) -> tuple[np.ndarray, dict[int, str]]:
    """Reads sizes from file headers, in parallel; pixels are decoded only on request.

    Boxes of Open Images fit the stored pixels, so the EXIF orientation is not applied.

    Args:
        folder: Where the names start from.
        file_names: N image files.
        progress: Callback.
        decode: Find files that end early or have a format that OpenCV does not read, too.

    Returns:
        (N, 2) int32 width and height, pixels, and by index the fault of each file that is not a readable image.
    """
    paths = [os.path.join(folder, name) for name in file_names]
    sizes: np.ndarray = np.zeros((len(paths), 2), dtype=np.int32)
    faults = {}
    what = 'decoding images' if decode else 'reading image sizes'
    with ExitStack() as stack:
        results: Iterable[tuple[int, int] | str] = map(_size, paths)
        if decode:  # Pillow decodes without the interpreter's lock
            Image.init()  # not in several threads at once
            threads = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
            chunks = (paths[first : first + _CHUNK] for first in range(0, len(paths), _CHUNK))
            results = chain.from_iterable(threads.map(_decoded_size, chunk) for chunk in chunks)
        elif len(paths) > _CHUNK:
            # Not fork: Arrow's threads do not survive it.
            pool = stack.enter_context(ProcessPoolExecutor(mp_context=get_context('spawn')))
            results = pool.map(_size, paths, chunksize=_CHUNK)
        for row, size in enumerate(results):
            if isinstance(size, str):
                faults[row] = size
            else:
                sizes[row] = size
            if row % _CHUNK == 0:
                progress(what, row, len(paths))
    progress(what, len(paths), len(paths))
    return sizes, faults


def with_sizes_of_files(
    content: Content, folder: str | Path, missing_images: MissingImages, progress: Progress
) -> Content:
    """Adds the sizes of image files. If one cannot be read: lists all such and raises, or drops and counts them."""
    size, faults = read_sizes(folder, content.images['file_name'].to_pylist(), progress)
    if faults and missing_images == 'error':
        listed = ''.join(f'\n  {fault}' for fault in faults.values())
        remedy = "replace them, or drop these images with missing_images='drop' (--missing-images drop)"
        raise AnnotationError(f'{folder}: {len(faults)} of the {len(size)} images cannot be read; {remedy}:{listed}')
    bad: np.ndarray = np.isin(np.arange(len(size)), list(faults))
    return content.without_images(bad, 'that cannot be read').with_sizes(size[~bad])


def _size(path: str, decode: bool = False) -> tuple[int, int] | str:
    try:
        with Image.open(path, formats=OPENCV_FORMATS if decode else None) as image:
            size = image.size
            if decode:
                image.draft(None, (1, 1))  # a JPEG at an eighth of its size; still reads all of it
                image.load()
            return size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f'{path} ({error})'


def _decoded_size(path: str) -> tuple[int, int] | str:
    return _size(path, decode=True)
