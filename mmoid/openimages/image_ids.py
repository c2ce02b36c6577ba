"""Spellings of an ImageID: ``train/a.jpg``, ``a.jpg`` and ``a`` are one image.

The official files have bare ids. Files of other tools add the extension, the folder or both. Tools that take ids for
numbers write ``1`` or ``1.0`` for ``0001``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.store.summary import Summary

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.jfif')
_PARTS = r'^\s*(?P<folder>(?:.*[/\\])?)(?P<stem>[^/\\]+?)(?P<extension>(?i:\.(?:%s))?)\s*$'
_PARTS %= '|'.join(extension[1:] for extension in EXTENSIONS)


def spellings(ids: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array]:
    """(n,) ids without folder and extension, the same without extension, and as they are."""
    folder, stem, _ = _parts(ids)
    return (ids, ids, ids) if stem is ids else (stem, pc.binary_join_element_wise(folder, stem, ''), ids)


def number_images(values: pa.ChunkedArray, summary: Summary | None = None) -> tuple[pa.Array, np.ndarray, pa.Array]:
    """Numbers the images of (R,) ids in the order in which they first occur.

    Ids lose their folder and extension. They keep what distinguishes two ids that both have it, such as ``x/a.jpg`` and
    ``y/a.jpg``.

    Returns:
        N ids, (R,) int32 index of each row's image, and the N longest spellings of the images.
    """
    given, row = number_rows(values)
    short = _distinguishing(given)
    if short is given:
        return given, row, given
    if summary is not None:
        changed = pc.not_equal(short, given).to_numpy(zero_copy_only=False)
        reason = 'image ids taken without folder or extension'
        summary.change(reason, changed.sum(), given[int(np.argmax(changed))].as_py())
    ids, image = number_rows(pa.chunked_array([short], pa.string()))
    order = np.argsort(pc.binary_length(given).to_numpy(), kind='stable')
    longest = np.empty(len(ids), dtype=np.int64)
    longest[image[order]] = order
    return ids, image[row], given.take(pa.array(longest))


def match_images(ids: pa.Array, known: pa.Array) -> np.ndarray:
    """(n,) int64 index into ``known`` of the image that each id means; -1 where none or more than one fits.

    Where ``x/a`` is known and given, ``y/a`` is another image; so is ``a.png`` beside ``a.jpg``.
    """
    index: np.ndarray = pc.index_in(ids, known).fill_null(-1).to_numpy().astype(np.int64)
    for given, wanted in zip(_looser_spellings(ids), _looser_spellings(known)):
        if (index >= 0).all():
            break
        encoded = wanted.dictionary_encode()
        first, count = np.unique(encoded.indices.to_numpy(), return_index=True, return_counts=True)[1:]
        position = pc.index_in(given, encoded.dictionary).fill_null(-1).to_numpy()
        single = np.append(np.where(count == 1, first, -1), -1)
        found = np.where(index < 0, single[position], -1)
        rows = np.flatnonzero((found >= 0) & np.isin(found, index))  # of images that a closer spelling means
        for own, other in zip(_parts(ids.take(pa.array(rows)))[::2], _parts(known.take(pa.array(found[rows])))[::2]):
            both = pc.and_(pc.not_equal(own, ''), pc.not_equal(other, ''))  # have a folder, or an extension
            found[rows[both.to_numpy(zero_copy_only=False)]] = -1
        index = np.maximum(index, found)
    return index


def match_images_once(ids: pa.Array, known: pa.Array, source: str) -> np.ndarray:
    """:func:`match_images`; an AnnotationError that begins with ``source`` if two ids mean the same image."""
    index = match_images(ids, known)
    require_once(ids, index, source)
    return index


def require_once(ids: pa.Array, index: np.ndarray, source: object) -> None:
    """Raises an AnnotationError that begins with ``source`` if two of (n,) ids have the same index; -1 is none."""
    times = np.bincount(index[index >= 0])
    if (times > 1).any():
        spelled = ' and '.join(repr(ids[int(k)].as_py()) for k in np.flatnonzero(index == times.argmax())[:2])
        raise AnnotationError(f'{source}: {spelled} are the same image; expected each image once')


def _looser_spellings(ids: pa.Array) -> Iterator[pa.Array]:
    """(n,) ids without extension; without folder too; numbers without leading zeros and ``.0`` too."""
    stem, path, _ = spellings(ids)
    yield path
    yield stem
    yield pc.replace_substring_regex(stem, r'^0*(\d+?)(\.0*)?$', r'\1')


def number_rows(values: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Numbers the distinct values of (R,) strings in the order in which they first occur.

    Returns:
        The distinct values, and (R,) int32: which of them each row holds.
    """
    encoded = values.dictionary_encode().combine_chunks()
    return encoded.dictionary, encoded.indices.to_numpy()


def _distinguishing(ids: pa.Array) -> pa.Array:
    """The shortest spelling that keeps images apart: distinct ids with a folder, or with an extension, are distinct."""
    folder, stem, extension = _parts(ids)
    if stem is ids:
        return ids
    if _clash(spellings(ids)[1], pc.utf8_lower(extension)):
        return ids
    return spellings(ids)[1] if _clash(stem, folder) else stem


def _clash(name: pa.Array, part: pa.Array) -> bool:
    """Whether one name comes with two parts that are not empty."""
    given = pc.not_equal(part, '')
    name, part = name.filter(given), part.filter(given)
    return len(pc.unique(pc.binary_join_element_wise(name, part, '\0'))) > len(pc.unique(name))


def _parts(ids: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array]:
    """(n,) folders with ``/``, names and extensions."""
    if not pc.any(pc.match_substring_regex(ids, r'[./\\\s]')).as_py():
        empty = pa.repeat('', len(ids))
        return empty, ids, empty
    parts = pc.extract_regex(ids, _PARTS)
    found = pc.is_valid(parts)
    folder, stem, extension = (pc.struct_field(parts, name) for name in ('folder', 'stem', 'extension'))
    folder = pc.replace_substring(folder, '\\', '/')  # of Windows
    return pc.if_else(found, folder, ''), pc.if_else(found, stem, ids), pc.if_else(found, extension, '')
