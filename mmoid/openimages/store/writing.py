"""Writing an AnnotationStore: from rows with image and class indices to the tables, with a summary of what was done."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmoid.openimages.boxes import below_a_pixel
from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.readers.csv_files import FLAGS
from mmoid.openimages.store.annotation_store import FORMAT, OUTSIDE, SCHEMAS, VERSION, AnnotationStore
from mmoid.openimages.store.arrow_folder import map_tables, require_replaceable, write_folder, write_tables
from mmoid.openimages.store.summary import Summary
from mmoid.utils.progress import Progress, no_progress

MissingImages = Literal['error', 'drop']


@dataclass(frozen=True)
class Rows:
    """Boxes or image-level labels: (R,) image index, (R,) class index, and columns of R rows by name."""

    image: np.ndarray
    label: np.ndarray
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: np.ndarray) -> Rows:
        """Some rows: (R,) bool, or indices."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Rows(self.image[rows], self.label[rows], columns)

    def sorted_by_image(self) -> Rows:
        """The rows of each image together, in their order."""
        return self if (np.diff(self.image) >= 0).all() else self.take(np.argsort(self.image, kind='stable'))


_NO_ROW: np.ndarray = np.empty(0, dtype=np.int32)
NO_BOXES = Rows(_NO_ROW, _NO_ROW, {'box': np.empty((0, 4)), **dict.fromkeys(FLAGS, np.empty(0, dtype=np.int8))})
NO_LABELS = Rows(_NO_ROW, _NO_ROW, {'confidence': np.empty(0, dtype=np.float32)})


@dataclass(frozen=True)
class Content:
    """What a store is made of; see :class:`AnnotationStore` for types and units."""

    images: pa.Table  # N rows: image_id, file_name, width and height
    boxes: Rows  # with the columns box and the five flags
    labels: Rows  # with the column confidence
    classes: ClassNames
    tree: dict  # as :class:`ClassHierarchy` takes it
    summary: Summary  # counts what is read and dropped
    upright: bool = False  # boxes fit the images as their EXIF orientation turns them; else as stored

    def with_images(self, keep: np.ndarray) -> Content:
        """The images with ``keep`` (N,) bool, and their rows, with new image indices."""
        new_index = np.cumsum(keep, dtype=np.int32) - 1
        boxes, labels = (rows.take(keep[rows.image]) for rows in (self.boxes, self.labels))
        return replace(
            self,
            images=self.images.filter(pa.array(keep)),
            boxes=replace(boxes, image=new_index[boxes.image]),
            labels=replace(labels, image=new_index[labels.image]),
        )

    def with_columns(self, **columns: pa.Array | np.ndarray) -> Content:
        """The same with (N,) columns of the images added or replaced."""
        return replace(self, images=pa.table({**dict(zip(self.images.column_names, self.images.columns)), **columns}))

    @property
    def sizes(self) -> np.ndarray:
        """(N, 2) width and height of the images, pixels."""
        return np.stack([self.images[name].to_numpy() for name in ('width', 'height')], axis=1)

    def with_sizes(self, size: np.ndarray) -> Content:
        """The same with the (N, 2) width and height of the images."""
        width, height = size.astype(np.int32).T
        return self.with_columns(width=width, height=height)

    def without_images(self, lost: np.ndarray, why: str) -> Content:
        """Drops and counts the images with ``lost`` (N,) bool."""
        if not lost.any():
            return self
        first = self.images['image_id'][int(np.argmax(lost))].as_py()
        self.summary.drop(f'images {why}', lost.sum(), first)
        self.summary.drop(f'boxes of images {why}', lost[self.boxes.image].sum())
        self.summary.drop(f'image-level labels of images {why}', lost[self.labels.image].sum())
        return self.with_images(~lost)


def write_store(folder: Path, content: Content, metadata: Mapping[str, Any]) -> None:
    """Writes a store into an existing folder. Completes the summary.

    ``metadata`` holds JSON values: ``sources`` (an iterable, read last), ``image_folder`` and what else is to be kept.
    """
    leaves = pc.match_substring_regex(content.images['file_name'], OUTSIDE)
    if pc.any(leaves).as_py():
        name = content.images['file_name'].filter(leaves)[0].as_py()
        remedy = 'give its path below the folder, or the folder (--images)'
        raise AnnotationError(f'{content.classes.source}: image file {name!r} lies outside the image folder; {remedy}')
    num_images, num_classes = len(content.images), len(content.classes)
    boxes, labels = content.boxes.sorted_by_image(), content.labels.sorted_by_image()
    box, flags = boxes.columns['box'], {name: boxes.columns[name] for name in FLAGS}
    box_label = boxes.label.astype(np.int32)
    box_count = np.bincount(box_label, minlength=num_classes)
    hierarchy = ClassHierarchy(content.tree, content.classes.label_names, content.classes.source)
    stop, images = image_lists(boxes.image, box_label, num_classes)
    expanded_stop, expanded_images = expand_image_lists(stop, images, hierarchy)
    width, height = (content.images[name].cast(pa.int32()) for name in ('width', 'height'))
    small = np.flatnonzero(below_a_pixel(box, width.to_numpy()[boxes.image], height.to_numpy()[boxes.image]))
    summary = content.summary
    summary.images, summary.boxes, summary.image_labels = num_images, len(boxes), len(labels)
    summary.images_without_boxes = int((np.bincount(boxes.image, minlength=num_images) == 0).sum())
    summary.boxes_below_a_pixel = len(small)
    summary.group_of_boxes = int((flags['IsGroupOf'] == 1).sum())
    summary.boxes_of_unknown_group_of = int((flags['IsGroupOf'] == -1).sum())
    summary.classes, summary.classes_with_boxes = num_classes, int((box_count > 0).sum())
    columns_of = {
        'classes': {
            'label_name': content.classes.label_names,
            'class_name': content.classes.display_names,
            'box_count': box_count,
            'image_stop': stop,
            'expanded_image_stop': expanded_stop,
        },
        'images': {
            'image_id': content.images['image_id'],
            'file_name': content.images['file_name'],
            'width': width,
            'height': height,
            'box_stop': _stops(boxes.image, num_images),
            'label_stop': _stops(labels.image, num_images),
        },
        'boxes': {'label': box_label, 'box': pa.FixedSizeListArray.from_arrays(box.reshape(-1), 4), **flags},
        'labels': {'label': labels.label.astype(np.int32), **labels.columns},
        'class_images': {'image': images},
        'class_images_expanded': {'image': expanded_images},
    }
    own = {
        'hierarchy': content.tree,
        'summary': asdict(summary),
        'boxes_below_a_pixel': small.tolist(),
        'upright': content.upright,
    }
    tables = {name: pa.table(columns) for name, columns in columns_of.items()}
    write_tables(folder, tables, FORMAT, VERSION, {**own, **metadata, 'sources': list(metadata['sources'])})


def image_folder_entry(images: Path, store: Path, root: Path) -> str:
    """Path of the image folder for ``metadata.json``: relative if both are below ``root``, since they move together."""
    images, store = images.resolve(), store.resolve()
    together = images.is_relative_to(root) and store.is_relative_to(root)
    return os.path.relpath(images, store) if together else str(images)


def fingerprint(path: str | Path) -> dict[str, str | int]:
    """Name, size, time and SHA-256 of a source file, as a store records them."""
    status, digest = os.stat(path), file_digest(path, 'sha256')
    return {'name': Path(path).name, 'bytes': status.st_size, 'modified_ns': status.st_mtime_ns, 'sha256': digest}


def file_digest(path: str | Path, algorithm: str) -> str:
    """Hexadecimal digest of a file."""
    digest = hashlib.new(algorithm)
    with open(path, 'rb') as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def image_lists(image: np.ndarray, label: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of each class, ascending, each once: (C,) ends, and the lists one after the other, int32.

    ``image`` and ``label`` are those of B boxes, ordered by image.
    """
    # A stable sort of 16-bit keys is a radix sort: linear, ten times faster than sorting (class, image) pairs.
    keys = label.astype(np.int16) if num_classes <= np.iinfo(np.int16).max else label
    order = np.argsort(keys, kind='stable')
    image, label = image[order], label[order]
    first: np.ndarray = np.ones(len(image), dtype=bool)
    first[1:] = (image[1:] != image[:-1]) | (label[1:] != label[:-1])
    return _stops(label[first], num_classes), image[first].astype(np.int32, copy=False)


def expand_image_lists(
    stop: np.ndarray, images: np.ndarray, hierarchy: ClassHierarchy
) -> tuple[np.ndarray, np.ndarray]:
    """The lists of :func:`image_lists` with every box counted for its ancestors too."""
    own = np.split(images, stop[:-1])
    lists = []
    for label in range(hierarchy.num_classes):
        descendants = [own[below] for below in hierarchy.descendants(label)]
        lists.append(np.unique(np.concatenate([own[label], *descendants])) if descendants else own[label])
    return np.cumsum([len(part) for part in lists]), np.concatenate(lists)


def _stops(index: np.ndarray, size: int) -> np.ndarray:
    return np.cumsum(np.bincount(index, minlength=size))


def subset_stores(
    parent: AnnotationStore,
    parts: Mapping[Path, np.ndarray],
    made_by: Mapping[str, Any],
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> list[Summary]:
    """Writes a store for each part, and returns their summaries. All classes are kept. If one fails, none is made.

    A part is the folder of a new store with its images: (n,) indices, each once. They keep the order of the parent.
    ``made_by`` has JSON values that say how they were chosen, for ``subset`` in ``metadata.json``. Progress is
    in stores.

    Raises:
        ValueError: A path inside or above the parent.
        OSError: A folder that may not be replaced.
    """
    require_writable(parent, list(parts), overwrite)
    contents = [_content(parent, images) for images in parts.values()]
    origin = {'parent': parent.path.resolve().name, 'parent_images': parent.num_images, **made_by}
    if 'subset' in parent.metadata:
        origin['parent_subset'] = parent.metadata['subset']
    with ExitStack() as stack:
        for done, (path, content) in enumerate(zip(parts, contents), 1):
            images, root = parent.image_folder, parent.path.resolve().parent
            entry = None if images is None else image_folder_entry(images, path, root)
            metadata = {'sources': parent.metadata['sources'], 'subset': origin, 'image_folder': entry}
            write_store(stack.enter_context(write_folder(path, overwrite)), content, metadata)
            progress('writing stores', done, len(parts))
    return [content.summary for content in contents]


def require_writable(parent: AnnotationStore, paths: Sequence[Path], overwrite: bool) -> None:
    """Raises unless every path may take a subset of ``parent``. Call it before long work."""
    home = parent.path.resolve()
    for path in paths:
        if (new := Path(path).resolve()).is_relative_to(home) or home.is_relative_to(new):
            raise ValueError(f'{path}: overlaps the store {parent.path}, which is read; give another --out')
        require_replaceable(path, overwrite)


def _content(parent: AnnotationStore, images: np.ndarray) -> Content:
    columns = {'box': parent.box, **{name: parent.flag(name) for name in FLAGS}}
    boxes = Rows(parent.image_of_box(), parent.box_label, columns)
    labels = Rows(parent.image_of_label(), parent.image_label, {'confidence': parent.image_label_confidence})
    summary = Summary(box_rows=len(boxes), label_rows=len(labels))
    table = map_tables(parent.path, {'images': SCHEMAS['images']})['images']
    content = Content(table, boxes, labels, parent.classes, parent.metadata['hierarchy'], summary, parent.upright)
    return content.without_images(~np.isin(np.arange(len(table)), images), 'of other subsets or none')
