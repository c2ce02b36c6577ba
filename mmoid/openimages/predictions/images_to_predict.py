"""Images to predict on: from folders, files or a list of ids to a store without annotations."""

from __future__ import annotations

import csv
import fcntl
import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.image_ids import spellings
from mmoid.openimages.predictions.csv_files import read_image_list
from mmoid.openimages.readers.image_files import find_images, images_below, read_sizes
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.arrow_folder import write_folder
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import NO_BOXES, NO_LABELS, Content, image_folder_entry, write_store
from mmoid.utils.progress import Progress, no_progress

LISTS = ('.csv', '.csv.gz', '.txt')
SKIPPED = 'skipped.csv'


@dataclass(frozen=True, eq=False)
class Images:
    """Images that a user names."""

    ids: pa.Array  # (N,) ImageIDs, in the order of the list or of the paths
    folder: Path  # where the file names start from
    file_names: pa.Array  # (N,) paths below ``folder``; null where there is no file

    def key(self, *others: object) -> str:
        """A checksum that changes with the list, with the size or time of a file, and with ``others``."""
        digest = hashlib.sha256(json.dumps([str(self.folder), *others], default=str).encode())
        for image_id, name in zip(self.ids.to_pylist(), self.file_names.to_pylist()):
            status = None if name is None else os.stat(self.folder / name)
            file = status and (name, status.st_size, status.st_mtime_ns)
            digest.update(repr((image_id, file)).encode())
        return digest.hexdigest()


def find_inputs(inputs: Sequence[str], images: str | Path | None, summary: Summary) -> Images:
    """Finds the images that a command line names.

    Args:
        inputs: Folders (with their sub-folders), files and globs; or one list of ids
            (:func:`~mmoid.openimages.predictions.csv_files.read_image_list`).
        images: Folder of the images of a list.
        summary: Counts copies of an image, and names that are not UTF-8.

    Raises:
        AnnotationError: An input without images, an unreadable list.
        ValueError: A list without ``images`` or beside other inputs.
    """
    lists = [path for path in inputs if path.lower().endswith(LISTS)]
    if lists or images is not None:
        if images is None or len(inputs) > 1 or not lists:
            raise ValueError(
                f'{(lists or inputs)[0]}: a list of ids ({", ".join(LISTS)}) stands alone, with the folder of its '
                'images (--images); folders and files stand without --images'
            )
        ids = pa.array(read_image_list(lists[0]), pa.string())
        return Images(ids, Path(images).absolute(), find_images(images, ids, summary))
    paths = list(dict.fromkeys(os.path.abspath(path) for text in inputs for path in _files(text, summary)))
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = pa.array([os.path.relpath(path, folder) for path in paths], pa.string())
    ids = next(spelling for spelling in spellings(names) if len(spelling.unique()) == len(names))
    return Images(ids, Path(folder), names)


def image_store(
    path: str | Path,
    images: Images,
    key: str,
    classes: Callable[[], tuple[ClassNames, dict]],
    progress: Progress = no_progress,
) -> AnnotationStore:
    """Opens the store of images to predict on. Makes it first, unless it is there with the same ``key``.

    Every image is decoded once; those that cannot be read are not in the store, but in :func:`skipped_images`.
    Processes that call this together wait for the one that makes the store.

    ``key`` is that of :meth:`Images.key`; ``classes`` gives the classes and their hierarchy.

    Raises:
        AnnotationError: No image can be read.
        OSError: ``path`` cannot be written, or is something else.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f'.{path.name}.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_store_of(path, key):
            _write_store(path, images, key, *classes(), progress)
    return AnnotationStore(path)


def is_store_of(path: str | Path, key: str) -> bool:
    """Whether :func:`image_store` has made this store with the same ``key``."""
    try:
        return AnnotationStore(path).metadata.get('key') == key
    except AnnotationError:  # missing, or something else
        return False


def skipped_images(store: AnnotationStore) -> list[list[str]]:
    """ImageID and reason of each image that was left out by :func:`image_store`."""
    with (store.path / SKIPPED).open(newline='') as stream:
        return list(csv.reader(stream))[1:]


def _write_store(path: Path, images: Images, key: str, classes: ClassNames, tree: dict, progress: Progress) -> None:
    there = np.flatnonzero(images.file_names.is_valid().to_numpy(zero_copy_only=False))
    names = images.file_names.take(pa.array(there))
    size, faults = read_sizes(images.folder, names.to_pylist(), progress, decode=True)
    reasons = dict.fromkeys(range(len(images.ids)), f'no file below {images.folder}')
    reasons |= dict.fromkeys(there.tolist(), '')
    reasons |= {int(there[row]): fault for row, fault in faults.items()}
    skipped = [(images.ids[k].as_py(), reason) for k, reason in reasons.items() if reason]
    good = np.setdiff1d(np.arange(len(there)), list(faults))
    if not len(good):
        raise AnnotationError(
            f'none of the {len(images.ids)} images can be read, first {skipped[0][0]!r}: {skipped[0][1]}'
        )
    table = pa.table({'image_id': images.ids.take(pa.array(there[good])), 'file_name': names.take(pa.array(good))})
    content = Content(table, NO_BOXES, NO_LABELS, classes, tree, Summary()).with_sizes(size[good])
    folder = image_folder_entry(images.folder, path, path.resolve().parent)
    with write_folder(path, overwrite=True) as temporary:
        with (temporary / SKIPPED).open('w', newline='') as stream:
            csv.writer(stream).writerows([('ImageID', 'Reason'), *skipped])
        write_store(temporary, content, {'sources': [], 'image_folder': folder, 'key': key})


def _files(text: str, summary: Summary) -> Iterable[str]:
    """The image files that one input names: itself, those below it, or those that it matches."""
    matches = [text] if os.path.exists(text) else sorted(glob.glob(text, recursive=True))
    files: list[str] = []
    for match in matches:
        is_folder = os.path.isdir(match)
        files += [f'{match}/{name}' for name in images_below(match, summary).to_pylist()] if is_folder else [match]
    if not files:
        raise AnnotationError(f'{text}: no image there')
    return files
