"""AnnotationStore: the annotations of a data set as memory-mapped Arrow files in one folder.

Every rank and every loader worker maps the same files, so the page cache holds them once for all. Opening costs
milliseconds whatever the size, because nothing is parsed.

Folder (format version 1; uncompressed Arrow IPC files of one record batch, readable by any Arrow tool)::

    metadata.json                    format, version, hierarchy, sources with checksums, image folder, summary
    classes.arrow                    C rows: label_name, class_name, box_count, image_stop, expanded_image_stop
    images.arrow                     N rows: image_id, file_name, width, height, box_stop, label_stop
    boxes.arrow                      B rows: label, box [xmin, ymin, xmax, ymax], flags; image after image
    labels.arrow                     L rows: label, confidence; image-level labels, image after image
    class_images.arrow               images that hold a class, class after class
    class_images_expanded.arrow      the same with every box counted for its ancestors too

A ``*_stop`` column is the end of a row's slice in the other file; the slice begins where the row before ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array

from mmoid.openimages.boxes import below_a_pixel
from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.readers.csv_files import FLAGS
from mmoid.openimages.store.arrow_folder import METADATA, column, map_tables, read_metadata

FORMAT = 'mmoid-annotations'
VERSION = 1
NOT_EXHAUSTIVE = 2
"""Confidence of an image-level label: verified present, and some objects of the class may have no box."""

OUTSIDE = r'(^|/)\.\.(/|$)|^/|^\s*$|^\w[\w+.-]*:[/\\]'
"""File names that leave the image folder, addresses, or none."""

_COLUMNS = {
    'classes': {
        **dict.fromkeys(('label_name', 'class_name'), pa.string()),
        **dict.fromkeys(('box_count', 'image_stop', 'expanded_image_stop'), pa.int64()),
    },
    'images': {
        **dict.fromkeys(('image_id', 'file_name'), pa.string()),
        **dict.fromkeys(('width', 'height'), pa.int32()),
        **dict.fromkeys(('box_stop', 'label_stop'), pa.int64()),
    },
    'boxes': {'label': pa.int32(), 'box': pa.list_(pa.float64(), 4), **dict.fromkeys(FLAGS, pa.int8())},
    'labels': {'label': pa.int32(), 'confidence': pa.float32()},
    'class_images': {'image': pa.int32()},
    'class_images_expanded': {'image': pa.int32()},
}
SCHEMAS = {name: pa.schema(columns.items()) for name, columns in _COLUMNS.items()}


class AnnotationStore:
    """One prepared data set (a split), read-only.

    Pickles as its path: a spawned worker maps the files itself instead of receiving them.

    Args:
        path: Folder written by ``tools/dataset_converters/prepare_openimages.py``, for example.

    Attributes:
        classes (ClassNames): To look up MIDs and names.
        label_names, class_names (tuple[str, ...]): (C,) MIDs and unique display names by class index.
        num_classes (int): C.
        num_images (int): N, images without boxes included.
        num_boxes (int): B, rows as annotated.
        width, height (np.ndarray): (N,) int32, pixels. Like all columns, views into the mapped file.
        box_stop (np.ndarray): (N,) int64; end of each image's slice of the box columns.
        label_stop (np.ndarray): (N,) int64; end of each image's slice of the image-level label columns.
        box (np.ndarray): (B, 4) float64; xmin, ymin, xmax, ymax as fractions of the image size.
        box_label (np.ndarray): (B,) int32 class index.
        is_group_of (np.ndarray): (B,) int8; 1, 0 or -1 (unknown).
        image_label (np.ndarray): (L,) int32 class index of image-level labels.
        image_label_confidence (np.ndarray): (L,) float32; 1 verified present, 0 verified absent,
            :data:`NOT_EXHAUSTIVE`.
        class_box_counts (np.ndarray): (C,) int64 boxes, as annotated.

    Raises:
        AnnotationError: No folder, not a store, incomplete, or of another format version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._written = _written(self.path)
        self.metadata = read_metadata(self.path, FORMAT, VERSION, 'mmoid prepare')
        if missing := sorted({'hierarchy', 'sources', 'image_folder', 'summary'} - set(self.metadata)):
            raise AnnotationError(f'{self.path / METADATA}: has no {missing[0]!r}; make {self.path} again')
        self._tables = map_tables(self.path, SCHEMAS)
        classes, images, boxes, labels = (self._tables[name] for name in ('classes', 'images', 'boxes', 'labels'))
        self.num_classes, self.num_images, self.num_boxes = len(classes), len(images), len(boxes)
        mids, names = (classes[name].to_pylist() for name in ('label_name', 'class_name'))
        self.classes = ClassNames(mids, names, str(self.path))
        self.label_names, self.class_names = self.classes.label_names, self.classes.display_names
        self.width = column(images, 'width')
        self.height = column(images, 'height')
        self.box_stop = column(images, 'box_stop')
        self.label_stop = column(images, 'label_stop')
        self.box = column(boxes, 'box')
        self.box_label = column(boxes, 'label')
        self.is_group_of = column(boxes, 'IsGroupOf')
        self.image_label = column(labels, 'label')
        self.image_label_confidence = column(labels, 'confidence')
        self.class_box_counts = column(classes, 'box_count')
        self._require_stops('images', 'box_stop', 'boxes')
        self._require_stops('images', 'label_stop', 'labels')
        self._require_stops('classes', 'image_stop', 'class_images')
        self._require_stops('classes', 'expanded_image_stop', 'class_images_expanded')

    def __reduce__(self) -> tuple[Callable, tuple[Path, int]]:
        return _open_same, (self.path, self._written)

    @cached_property
    def hierarchy(self) -> ClassHierarchy:
        """The class graph, over ``label_names``."""
        return ClassHierarchy(self.metadata['hierarchy'], self.label_names, source=str(self.path / METADATA))

    @cached_property
    def boxes_below_a_pixel(self) -> np.ndarray:
        """(n,) int64 rows of boxes narrower or lower than a pixel: ground truth of the metric, no training targets."""
        rows = self.metadata.get('boxes_below_a_pixel')
        if rows is None:  # written before mmoid counted them
            image = self.image_of_box()
            return np.flatnonzero(below_a_pixel(self.box, self.width[image], self.height[image]))
        return np.array(rows, dtype=np.int64)

    @property
    def upright(self) -> bool:
        """Whether boxes fit the images as their EXIF orientation turns them; else as stored, as in Open Images."""
        return bool(self.metadata.get('upright'))

    @property
    def image_folder(self) -> Path | None:
        """Where the images were when the store was made; None if unknown."""
        folder = self.metadata['image_folder']
        return None if folder is None else self.path / folder  # an absolute folder wins over self.path

    def flag(self, name: str) -> np.ndarray:
        """(B,) int8: 1, 0 or -1 (unknown) of one of the official flags, such as ``IsGroupOf``."""
        return column(self._tables['boxes'], name)

    def image_id(self, image: int) -> str:
        """The ImageID of an image index."""
        return self._tables['images']['image_id'][image].as_py()

    def image_ids(self) -> list[str]:
        """All ids, as N Python strings: not for training."""
        return self._tables['images']['image_id'].to_pylist()

    def file_name(self, image: int) -> str:
        """Path below the image folder.

        Raises:
            AnnotationError: A path that leaves the folder.
        """
        name = self._tables['images']['file_name'][image].as_py()
        if re.search(OUTSIDE, name):
            raise AnnotationError(f'{self.path}: image file {name!r} lies outside the image folder')
        return name

    def boxes_of_image(self, image: int) -> slice:
        """Slice of the box columns."""
        return _slice(self.box_stop, image)

    def labels_of_image(self, image: int) -> slice:
        """Slice of the image-level label columns."""
        return _slice(self.label_stop, image)

    def image_of_box(self) -> np.ndarray:
        """(B,) int64 image index of every box; computed, not mapped."""
        return np.repeat(np.arange(self.num_images), np.diff(self.box_stop, prepend=0))

    def image_of_label(self) -> np.ndarray:
        """(L,) int64 image index of every image-level label; computed, not mapped."""
        return np.repeat(np.arange(self.num_images), np.diff(self.label_stop, prepend=0))

    def class_image_counts(self, expand_hierarchy: bool = True) -> np.ndarray:
        """(C,) int64: n_i, the number of images with class i (Eq. 6), counting for ancestors too if expanded."""
        return np.diff(self._class_image_stop(expand_hierarchy), prepend=0)

    def images_of_class(self, label: int, expand_hierarchy: bool = True) -> np.ndarray:
        """(n_i,) int32 image indices, ascending, each once."""
        return self.class_images(expand_hierarchy)[_slice(self._class_image_stop(expand_hierarchy), label)]

    def class_images(self, expand_hierarchy: bool = True) -> np.ndarray:
        """(sum of n_i,) int32: :meth:`images_of_class` of all classes, one after the other."""
        return column(self._tables['class_images_expanded' if expand_hierarchy else 'class_images'], 'image')

    def images_by_class(self, expand_hierarchy: bool = True) -> csr_array:
        """(C, N) bool: whether a class is in an image; see :meth:`class_image_counts`."""
        images, stop = self.class_images(expand_hierarchy), self._class_image_stop(expand_hierarchy)
        ones = np.ones(len(images), dtype=bool)
        return csr_array((ones, images, np.append(0, stop)), shape=(self.num_classes, self.num_images))

    def _class_image_stop(self, expand_hierarchy: bool) -> np.ndarray:
        return column(self._tables['classes'], 'expanded_image_stop' if expand_hierarchy else 'image_stop')

    def _require_stops(self, owner: str, stop: str, table: str) -> None:
        """Raises unless two files are of one store: the last stop is the number of rows of the other file."""
        stops, rows = column(self._tables[owner], stop), self._tables[table].num_rows
        expected = int(stops[-1]) if len(stops) else 0
        if (np.diff(stops, prepend=0) < 0).any():
            raise AnnotationError(f'{self.path}/{owner}.arrow: {stop} decreases; make {self.path} again')
        if rows != expected:
            raise AnnotationError(
                f'{self.path}/{table}.arrow: has {rows:,} rows, {owner}.arrow has {stop} {expected:,}; the files '
                f'are of different stores; make {self.path} again'
            )


def _open_same(path: Path, written: int) -> AnnotationStore:
    """Opens a store in another process. Raises an AnnotationError if it was replaced since."""
    if _written(path) != written:
        raise AnnotationError(f'{path}: was replaced while it was in use; start again')
    return AnnotationStore(path)


def _written(path: Path) -> int:
    """When the metadata of a store were written, in ns; 0 if there are none."""
    file = path / METADATA
    return file.stat().st_mtime_ns if file.is_file() else 0


def _slice(stops: np.ndarray, row: int) -> slice:
    return slice(int(stops[row - 1]) if row else 0, int(stops[row]))
