"""The tables of an AnnotationStore, from rows whose images and classes are numbered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from .csv_files import COORDINATES, FLAGS
from .hierarchy import ClassHierarchy


@dataclass(frozen=True)
class IndexedRows:
    """Columns of one CSV file as integers: image (R,) and class (R,) indices beside the table itself."""

    table: pa.Table
    image: np.ndarray
    label: np.ndarray

    def where(self, keep: np.ndarray, new_image: np.ndarray) -> IndexedRows:
        """The rows with ``keep`` (R,) bool, their images numbered anew by (N,) ``new_image``."""
        return IndexedRows(self.table.filter(pa.array(keep)), new_image[self.image[keep]], self.label[keep])


def store_tables(
    image_ids: pa.Array,
    file_names: pa.Array,
    width: np.ndarray,
    height: np.ndarray,
    box_rows: IndexedRows,
    label_rows: IndexedRows,
    descriptions: Sequence[tuple[str, str]],
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
        descriptions: (MID, unique name) of the C classes.
        hierarchy: Over the same classes.

    Returns:
        The tables that :mod:`mmoid.openimages.store` describes, by name.
    """
    num_images, num_classes = len(image_ids), len(descriptions)
    order = _by_image(box_rows.image)
    label_order = _by_image(label_rows.image)
    corners = np.stack([box_rows.table[name].to_numpy()[order] for name in COORDINATES], axis=1).reshape(-1)
    box_label = box_rows.label[order]
    pairs = np.unique(box_label * num_images + box_rows.image[order])
    rows, expanded_label = hierarchy.expand_up(pairs // max(1, num_images))
    expanded = np.unique(expanded_label * num_images + pairs[rows] % max(1, num_images))

    def stops(index: np.ndarray, size: int) -> np.ndarray:
        return np.cumsum(np.bincount(index, minlength=size))

    def images_of(keys: np.ndarray) -> pa.Table:
        return pa.table({'image': (keys % max(1, num_images)).astype(np.int32)})

    return {
        'classes': pa.table({
            'label_name': [mid for mid, _ in descriptions],
            'class_name': [name for _, name in descriptions],
            'box_count': np.bincount(box_label, minlength=num_classes),
            'image_stop': stops(pairs // max(1, num_images), num_classes),
            'expanded_image_stop': stops(expanded // max(1, num_images), num_classes),
        }),
        'images': pa.table({
            'image_id': image_ids,
            'file_name': file_names,
            'width': width.astype(np.int32),
            'height': height.astype(np.int32),
            'box_stop': stops(box_rows.image, num_images),
            'label_stop': stops(label_rows.image, num_images),
        }),
        'boxes': pa.table({
            'label': box_label.astype(np.int32),
            'box': pa.FixedSizeListArray.from_arrays(pa.array(corners), 4),
            **{name: box_rows.table[name].to_numpy()[order] for name in FLAGS},
        }),
        'labels': pa.table({
            'label': label_rows.label[label_order].astype(np.int32),
            'confidence': label_rows.table['Confidence'].to_numpy()[label_order],
        }),
        'class_images': images_of(pairs),
        'class_images_expanded': images_of(expanded),
    }  # fmt: skip


def _by_image(image: np.ndarray) -> np.ndarray | slice:
    """Order that brings the rows of each image together and leaves them in file order; nothing to do as a rule."""
    return slice(None) if (np.diff(image) >= 0).all() else np.argsort(image, kind='stable')
