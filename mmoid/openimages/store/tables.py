"""The tables of an AnnotationStore, from rows whose images and classes are numbered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.readers.csv_files import COORDINATES, FLAGS


@dataclass(frozen=True)
class IndexedRows:
    """Columns of one CSV file as integers: image (R,) and class (R,) indices beside the table itself."""

    table: pa.Table
    image: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def where(self, keep: np.ndarray) -> IndexedRows:
        """The rows with ``keep`` (R,) bool."""
        return IndexedRows(self.table.filter(pa.array(keep)), self.image[keep], self.label[keep])

    def of_images(self, keep: np.ndarray) -> IndexedRows:
        """The rows of the images with ``keep`` (N,) bool, numbered anew without the others."""
        rows = self.where(keep[self.image])
        return IndexedRows(rows.table, (np.cumsum(keep, dtype=np.int32) - 1)[rows.image], rows.label)


def store_tables(
    image_ids: pa.Array,
    file_names: pa.Array,
    width: np.ndarray,
    height: np.ndarray,
    box_rows: IndexedRows,
    label_rows: IndexedRows,
    classes: ClassNames,
    hierarchy: ClassHierarchy,
) -> dict[str, pa.Table]:
    """Brings the rows of each image together and makes the image list of every class.

    Args:
        image_ids: (N,) strings.
        file_names: (N,) paths below the image folder.
        width: (N,) pixels.
        height: (N,) pixels.
        box_rows: From :func:`read_boxes`.
        label_rows: From :func:`read_image_labels`.
        classes: The C classes.
        hierarchy: Over the same classes.

    Returns:
        The tables that :mod:`mmoid.openimages.store.annotation_store` describes, by name.
    """
    num_images, num_classes = len(image_ids), len(classes)
    order = _by_image(box_rows.image)
    label_order = _by_image(label_rows.image)
    box_label = box_rows.label[order].astype(np.int32, copy=False)
    corners = np.empty((len(box_rows), 4))
    for k, name in enumerate(COORDINATES):
        corners[:, k] = box_rows.table[name].to_numpy()[order]
    stop, images = image_lists(box_rows.image[order], box_label, num_classes)
    expanded_stop, expanded_images = expand_image_lists(stop, images, hierarchy, num_images)
    return {
        'classes': pa.table({
            'label_name': classes.label_names,
            'class_name': classes.display_names,
            'box_count': np.bincount(box_label, minlength=num_classes),
            'image_stop': stop,
            'expanded_image_stop': expanded_stop,
        }),
        'images': pa.table({
            'image_id': image_ids,
            'file_name': file_names,
            'width': width.astype(np.int32),
            'height': height.astype(np.int32),
            'box_stop': _stops(box_rows.image, num_images),
            'label_stop': _stops(label_rows.image, num_images),
        }),
        'boxes': pa.table({
            'label': box_label,
            'box': pa.FixedSizeListArray.from_arrays(pa.array(corners.reshape(-1)), 4),
            **{name: box_rows.table[name].to_numpy()[order] for name in FLAGS},
        }),
        'labels': pa.table({
            'label': label_rows.label[label_order].astype(np.int32),
            'confidence': label_rows.table['Confidence'].to_numpy()[label_order],
        }),
        'class_images': pa.table({'image': images}),
        'class_images_expanded': pa.table({'image': expanded_images}),
    }  # fmt: skip


def _by_image(image: np.ndarray) -> np.ndarray | slice:
    """Order that brings the rows of each image together and leaves them in file order; nothing to do as a rule."""
    return slice(None) if (image[1:] >= image[:-1]).all() else np.argsort(image, kind='stable')


def _stops(index: np.ndarray, size: int) -> np.ndarray:
    return np.cumsum(np.bincount(index, minlength=size))


def image_lists(image: np.ndarray, label: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of each class, ascending, each once: (C,) ends, and the lists one after the other, int32.

    Args:
        image: (B,) image of each box, ascending.
        label: (B,) class of each box.
        num_classes: C.
    """
    # A stable sort of 16-bit keys is a radix sort: linear, ten times faster than sorting (class, image) pairs.
    keys = label.astype(np.int16) if num_classes <= np.iinfo(np.int16).max else label
    order = np.argsort(keys, kind='stable')
    image, label = image[order], label[order]
    first: np.ndarray = np.ones(len(image), dtype=bool)
    first[1:] = (image[1:] != image[:-1]) | (label[1:] != label[:-1])
    return _stops(label[first], num_classes), image[first].astype(np.int32, copy=False)


def expand_image_lists(
    stop: np.ndarray, images: np.ndarray, hierarchy: ClassHierarchy, num_images: int
) -> tuple[np.ndarray, np.ndarray]:
    """The lists of :func:`image_lists` with every box counted for its ancestors too."""
    own = np.split(images, stop[:-1])
    lists = []
    for label, is_leaf in enumerate(hierarchy.is_leaf):
        if is_leaf:
            lists.append(own[label])
            continue
        holds: np.ndarray = np.zeros(num_images, dtype=bool)
        for member in (label, *hierarchy.descendants(label)):
            holds[own[member]] = True
        lists.append(np.flatnonzero(holds).astype(np.int32))
    return np.cumsum([len(part) for part in lists]), np.concatenate(lists)
