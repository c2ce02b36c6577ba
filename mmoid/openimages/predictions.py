"""PredictionStore: the detections of one model on a set of images, as memory-mapped Arrow files in one folder.

::

    metadata.json       format, version, label_names, class_names
    images.arrow        N rows: image_id, detection_stop
    detections.arrow    D rows: label, score, box [xmin, ymin, xmax, ymax] as fractions of the image size; image after
                        image, best score first as the model gave them
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from .arrow_folder import column, map_tables, read_metadata, write_folder

FORMAT = 'mmoid-predictions'
VERSION = 1


class PredictionStore:
    """Predictions, read-only.

    Attributes:
        label_names (tuple[str, ...]): MIDs by class index.
        label (np.ndarray): (D,) int32 class indices.
        score (np.ndarray): (D,) float32 in [0, 1].
        box (np.ndarray): (D, 4) float64: xmin, ymin, xmax, ymax as fractions of the image size.
        detection_stop (np.ndarray): (N,) int64: end of each image's slice of the above.

    Raises:
        AnnotationError: No folder, or none that ``tools/test.py --out`` has written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        metadata = read_metadata(self.path, FORMAT, VERSION, 'tools/test.py --out')
        tables = map_tables(self.path, ('images', 'detections'))
        self.label_names = tuple(metadata['label_names'])
        self.class_names = tuple(metadata['class_names'])
        self.label = column(tables['detections'], 'label')
        self.score = column(tables['detections'], 'score')
        self.box = column(tables['detections'], 'box')
        self.detection_stop = column(tables['images'], 'detection_stop')
        self._images = tables['images']

    @property
    def num_images(self) -> int:
        """N, images without detections included."""
        return len(self._images)

    def image_ids(self) -> list[str]:
        """ImageIDs by image index."""
        return self._images['image_id'].to_pylist()

    def image_of_detection(self) -> np.ndarray:
        """(D,) int64 image index of every detection; computed, not mapped."""
        return np.repeat(np.arange(self.num_images), np.diff(self.detection_stop, prepend=0))


def write_predictions(
    path: str | Path,
    *,
    image_ids: Sequence[str],
    detections_per_image: np.ndarray,
    label: np.ndarray,
    score: np.ndarray,
    box: np.ndarray,
    label_names: Sequence[str],
    class_names: Sequence[str],
    overwrite: bool = False,
) -> None:
    """Writes a :class:`PredictionStore`, atomically.

    Args:
        path: The new folder.
        image_ids: N ids.
        detections_per_image: (N,) counts; the other columns hold image after image.
        label: (D,) class indices.
        score: (D,).
        box: (D, 4) xmin, ymin, xmax, ymax as fractions of the image size.
        label_names: MIDs by class index.
        class_names: Display names by class index.
        overwrite: Replace predictions that are there.
    """
    corners = np.ascontiguousarray(box, dtype=np.float64).reshape(-1)
    tables = {
        'images': pa.table({
            'image_id': pa.array(image_ids, pa.string()),
            'detection_stop': np.cumsum(np.asarray(detections_per_image, dtype=np.int64)),
        }),
        'detections': pa.table({
            'label': np.asarray(label, dtype=np.int32),
            'score': np.asarray(score, dtype=np.float32),
            'box': pa.FixedSizeListArray.from_arrays(pa.array(corners), 4),
        }),
    }  # fmt: skip
    metadata = {'label_names': list(label_names), 'class_names': list(class_names)}
    write_folder(path, tables, FORMAT, VERSION, metadata, overwrite)
