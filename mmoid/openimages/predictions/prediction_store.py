"""PredictionStore: the detections of one model on a set of images, as memory-mapped Arrow files in one folder.

::

    metadata.json       format, version, label_names, class_names
    images.arrow        N rows: image_id, detection_stop
    detections.arrow    D rows: label, score, box [xmin, ymin, xmax, ymax] as fractions of the image size; image after
                        image, best score first as the model gave them
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmoid.openimages.store.arrow_folder import column, map_tables, read_metadata, write_tables, write_together

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
    scratch: str | Path | None = None,
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
        scratch: As for :func:`mmoid.openimages.store.arrow_folder.write_together`.
    """
    corners = np.ascontiguousarray(box, dtype=np.float64).reshape(-1)
    with write_together([path], overwrite, scratch) as (folder,):
        _write(
            folder,
            image_ids=pa.array(image_ids, pa.string()),
            detection_stop=np.cumsum(np.asarray(detections_per_image, dtype=np.int64)),
            label=pa.array(np.asarray(label, dtype=np.int32)),
            score=pa.array(np.asarray(score, dtype=np.float32)),
            corners=pa.array(corners),
            names=(label_names, class_names),
        )


def join_predictions(
    path: str | Path,
    parts: Sequence[str | Path],
    *,
    label_names: Sequence[str],
    class_names: Sequence[str],
    overwrite: bool = False,
    scratch: str | Path | None = None,
) -> int:
    """Writes the images of several stores, one store after the other, into one, atomically.

    The columns are put together on disk: memory holds no more than one part and the ids of all images.

    Args:
        path: The new folder.
        parts: Stores of these classes.
        label_names: MIDs by class index.
        class_names: Display names by class index.
        overwrite: Replace predictions that are there.
        scratch: As for :func:`mmoid.openimages.store.arrow_folder.write_together`.

    Returns:
        The number of detections.
    """
    with write_together([path], overwrite, scratch) as (folder,):
        columns = {name: folder / name for name in ('label', 'score', 'box')}
        ids: list[str] = []
        counts: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
        with ExitStack() as stack:
            streams = {name: stack.enter_context(file.open('wb')) for name, file in columns.items()}
            for part in map(PredictionStore, parts):
                for name, stream in streams.items():
                    stream.write(getattr(part, name).data)
                ids += part.image_ids()
                counts.append(np.diff(part.detection_stop, prepend=0))
        detection_stop = np.cumsum(np.concatenate(counts))
        total = int(detection_stop[-1]) if len(detection_stop) else 0
        _write(
            folder,
            image_ids=pa.array(ids, pa.string()),
            detection_stop=detection_stop,
            label=_map_column(columns['label'], pa.int32(), total),
            score=_map_column(columns['score'], pa.float32(), total),
            corners=_map_column(columns['box'], pa.float64(), 4 * total),
            names=(label_names, class_names),
        )
        for file in columns.values():
            file.unlink()
    return total


def _map_column(file: Path, kind: pa.DataType, length: int) -> pa.Array:
    buffer = pa.memory_map(str(file)).read_buffer() if length else pa.py_buffer(b'')
    return pa.Array.from_buffers(kind, length, [None, buffer])


def _write(
    folder: Path,
    image_ids: pa.Array,
    detection_stop: np.ndarray,
    label: pa.Array,
    score: pa.Array,
    corners: pa.Array,
    names: tuple[Sequence[str], Sequence[str]],
) -> None:
    """Writes the files; ``corners`` (4 D,), ``names`` MIDs and display names by class index."""
    boxes = pa.FixedSizeListArray.from_arrays(corners, 4)
    tables = {
        'images': pa.table({'image_id': image_ids, 'detection_stop': detection_stop}),
        'detections': pa.table({'label': label, 'score': score, 'box': boxes}),
    }
    label_names, class_names = names
    metadata = {'label_names': list(label_names), 'class_names': list(class_names)}
    write_tables(folder, tables, FORMAT, VERSION, metadata)
