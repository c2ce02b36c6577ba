"""Image files: which are there, and their sizes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import ExifTags, Image

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.image_ids import EXTENSIONS, match_images, require_once, spellings
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import Content, MissingImages, file_digest
from mmoid.utils.progress import Progress, no_progress

OPENCV_FORMATS = ('JPEG', 'PNG', 'BMP', 'WEBP', 'TIFF')
_CHUNK = 512


def files_below(folder: str | Path) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, with ``/``; not the hidden ones, as macOS makes them.

    Raises:
        AnnotationError: No such folder.
    """
    if not Path(folder).is_dir():
        raise AnnotationError(f'{folder}: no such folder')
    for directory, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name[0] != '.']
        below = Path(os.path.relpath(directory, folder)).as_posix()
        yield from (name if below == '.' else f'{below}/{name}' for name in names if name[0] != '.')


def images_below(folder: str | Path, summary: Summary) -> pa.Array:
    """Paths of the images below a folder, at any depth, sorted. Drops and counts those whose names are not UTF-8."""
    images = sorted(path for path in files_below(folder) if path.lower().endswith(EXTENSIONS))
    lost = [path for path in images if path.encode(errors='ignore').decode() != path]
    summary.drop('image files whose names are not UTF-8', len(lost), ''.join(lost[:1]))
    return pa.array(sorted(set(images).difference(lost)), pa.string())


def find_images(folder: str | Path, names: pa.Array, summary: Summary) -> pa.Array:
    """Finds images below a folder, at any depth (Open Images comes in sub-folders ``train_0`` ... ``train_f``).

    Copies of an image, as OIDv4_ToolKit puts into the folder of each class, are taken once and counted.

    Returns:
        (N,) paths below ``folder`` of images with (N,) ids in any spelling; null where there is none.

    Raises:
        AnnotationError: No such folder, different files of one image, or one file of different images.
    """
    files = images_below(folder, summary)
    index = match_images(names, files)
    rows = np.flatnonzero(index < 0)
    require_once(names, index, folder)
    lost = dict(zip(spellings(names.take(pa.array(rows)))[0].to_pylist(), rows))
    candidates: dict[str, list[int]] = {}
    for i, stem in enumerate(spellings(files)[0].to_pylist() if lost else ()):
        if stem in lost:
            candidates.setdefault(stem, []).append(i)
    for stem, found in candidates.items():
        if len(found) == 1:  # x/a.jpg, of another image than y/a.jpg
            continue
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
    if missing_images == 'error' and not exists.all():
        first = content.images['image_id'][int(np.argmin(exists))].as_py()
        raise AnnotationError(
            f'{folder}: has no file of {(~exists).sum()} of the {len(exists)} images, first {first!r}; '
            "complete the folder, or drop these images with missing_images='drop' (--missing-images drop)"
        )
    return content.with_columns(file_name=found).without_images(~exists, 'without a file')


def read_sizes(
    folder: str | Path,
    file_names: Sequence[str],
    progress: Progress = no_progress,
    decode: bool = False,
    upright: bool = False,
) -> tuple[np.ndarray, dict[int, str]]:
    """Reads sizes from file headers, in parallel; pixels are decoded only on request.

    Args:
        folder: Where the names start from.
        file_names: N image files.
        progress: Callback.
        decode: Find files that end early, too.
        upright: Sizes of the images as their EXIF orientation turns them, else as stored.

    Returns:
        (N, 2) int32 width and height, pixels, and by index the fault of each file that is not a readable image.
    """
    paths = [os.path.join(folder, name) for name in file_names]
    sizes: np.ndarray = np.zeros((len(paths), 2), dtype=np.int32)
    faults = {}
    what, chunk = ('decoding images', 16) if decode else ('reading image sizes', _CHUNK)
    with ExitStack() as stack:
        size_of = partial(_size, decode=decode, upright=upright)
        results: Iterable[tuple[int, int] | str] = map(size_of, paths)
        if len(paths) > chunk:
            # Not fork: Arrow's threads do not survive it.
            pool = stack.enter_context(ProcessPoolExecutor(mp_context=get_context('spawn')))
            results = pool.map(size_of, paths, chunksize=chunk)
        for row, size in enumerate(results):
            if isinstance(size, str):
                faults[row] = size
            else:
                sizes[row] = size
            if row % chunk == 0:
                progress(what, row, len(paths))
    progress(what, len(paths), len(paths))
    return sizes, faults


def with_sizes_of_files(
    content: Content, folder: str | Path, missing_images: MissingImages, progress: Progress
) -> Content:
    """Adds the sizes of image files. If one cannot be read: lists all such and raises, or drops and counts them.

    Sizes that the content has already are kept and compared; the summary counts those that differ. Width and height
    that are swapped, or 0 (unknown), are replaced.
    """
    size, faults = read_sizes(folder, content.images['file_name'].to_pylist(), progress, upright=content.upright)
    if faults and missing_images == 'error':
        listed = ''.join(f'\n  {fault}' for fault in faults.values())
        remedy = "replace them, or drop these images with missing_images='drop' (--missing-images drop)"
        raise AnnotationError(f'{folder}: {len(faults)} of the {len(size)} images cannot be read; {remedy}:{listed}')
    bad: np.ndarray = np.isin(np.arange(len(size)), list(faults))
    content, size = content.without_images(bad, 'that cannot be read'), size[~bad]
    if 'width' not in content.images.column_names:
        return content.with_sizes(size)
    given, differs = content.sizes, (content.sizes != size).any(axis=1)
    swapped = differs & (given[:, ::-1] == size).all(axis=1)
    for reason, rows in (
        ('images whose annotated width and height are swapped, corrected by their file', swapped),
        ('images whose file has another size than annotated', differs & ~swapped & given.all(axis=1)),
    ):
        if rows.any():
            k = int(np.argmax(rows))
            here, there = (f'{width} x {height}' for width, height in (size[k], given[k]))
            first = f'{content.images["file_name"][k].as_py()} ({here}, annotated {there})'
            content.summary.change(reason, rows.sum(), first)
    return content.with_sizes(np.where((swapped | ~given.all(axis=1))[:, None], size, given))


def _size(path: str, decode: bool, upright: bool) -> tuple[int, int] | str:
    try:
        with Image.open(path, formats=OPENCV_FORMATS) as image:
            width, height = image.size
            exif = Image.Exif()  # not image.getexif(): it decodes a PNG, and reads XMP, which OpenCV ignores
            if upright and image.format in ('JPEG', 'MPO', 'PNG'):
                with suppress(SyntaxError, struct.error):  # damaged
                    exif.load(image.info.get('exif', b''))
            if exif.get(ExifTags.Base.Orientation) in (5, 6, 7, 8):
                width, height = height, width
            if decode:
                image.draft(None, (1, 1))  # a JPEG at an eighth of its size; still reads all of it
                image.load()
            return width, height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f'{path} ({error})'
