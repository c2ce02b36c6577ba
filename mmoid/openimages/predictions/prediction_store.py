"""PredictionStore: the detections of one model on a set of images, as memory-mapped Arrow files in one folder.

::

    metadata.json       format, version, label_names, class_names
    images.arrow        N rows: image_id, detection_stop
    detections.arrow    D rows: label, score, box [xmin, ymin, xmax, ymax] as fractions of the image size; image after
                        image, best score first as the model gave them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmoid.openimages.store.arrow_folder import column, map_tables, read_metadata, write_folder, write_tables

FORMAT = 'mmoid-predictions'
VERSION = 1


@dataclass(frozen=True, eq=False)
class Predictions:
    """Detections of some images, image after image.

    Attributes:
        path: File or folder that they come from.
        label_names: MIDs by class index.
        class_names: Display names by class index.
        ids: (N,) ImageIDs, those of images without detections included.
        detection_stop: (N,) int64 end of each image's detections.
        label: (D,) int32 class indices.
        score: (D,) float32 or float64.
        box: (D, 4) float64 xmin, ymin, xmax, ymax as fractions of the image size.
        left_out: Number of detections that were left out while reading, by reason.
        changed: Number of detections that were changed while reading, by reason.
        lists_images: Whether images without detections are among the ids. False: a CSV with a row for each detection.
    """

    path: Path
    label_names: tuple[str, ...]
    class_names: tuple[str, ...]
    ids: pa.Array
    detection_stop: np.ndarray
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray
    left_out: Mapping[str, int] = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)
    lists_images: bool = True

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.ids)

    def image_ids(self) -> list[str]:
        """ImageIDs by image index."""
        return self.ids.to_pylist()

    def image_of_detection(self) -> np.ndarray:
        """(D,) int64 image index of every detection; computed, not mapped."""
        return np.repeat(np.arange(self.num_images), np.diff(self.detection_stop, prepend=0))


class PredictionStore(Predictions):
    """Predictions in a folder that ``tools/test.py --out`` wrote, memory-mapped. Scores are float32.

    Args:
        path: The folder.

    Raises:
        AnnotationError: Not such a folder.

    Example:
        >>> store = PredictionStore('work_dirs/mine/predictions')
        >>> rows = slice(store.detection_stop[6], store.detection_stop[7])
        >>> store.image_ids()[7], store.label[rows], store.score[rows], store.box[rows]
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        metadata = read_metadata(path, FORMAT, VERSION, 'tools/test.py --out')
        tables = map_tables(path, ('images', 'detections'))
        super().__init__(
            path=path,
            label_names=tuple(metadata['label_names']),
            class_names=tuple(metadata['class_names']),
            ids=tables['images']['image_id'].combine_chunks(),
            detection_stop=column(tables['images'], 'detection_stop'),
            label=column(tables['detections'], 'label'),
            score=column(tables['detections'], 'score'),
            box=column(tables['detections'], 'box'),
        )

    def __reduce__(self) -> tuple[type[PredictionStore], tuple[Path]]:
        return PredictionStore, (self.path,)


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
        score: (D,), kept in float32.
        box: (D, 4) xmin, ymin, xmax, ymax as fractions of the image size.
        label_names: MIDs by class index.
        class_names: Display names by class index.
        overwrite: Replace predictions that are there.
        scratch: As for :func:`mmoid.openimages.store.arrow_folder.write_folder`.
    """
    images = {'image_id': pa.array(image_ids, pa.string()), 'detection_stop': _stops([detections_per_image])}
    columns = {
        'label': pa.array(np.asarray(label, dtype=np.int32)),
        'score': pa.array(np.asarray(score, dtype=np.float32)),
        'box': pa.array(np.ascontiguousarray(box, dtype=np.float64).reshape(-1)),
    }
    with write_folder(path, overwrite, scratch) as folder:
        _write(folder, images, columns, label_names, class_names)


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

    Columns are joined on disk: memory holds one part at a time, and the ids of all images.

    Args:
        path: The new folder.
        parts: Stores of these classes.
        label_names: MIDs by class index.
        class_names: Display names by class index.
        overwrite: Replace predictions that are there.
        scratch: As for :func:`mmoid.openimages.store.arrow_folder.write_folder`.

    Returns:
        The number of detections.
    """
    with write_folder(path, overwrite, scratch) as folder:
        files = {name: folder / name for name in ('label', 'score', 'box')}
        ids: list[str] = []
        counts: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
        with ExitStack() as stack:
            streams = {name: stack.enter_context(file.open('wb')) for name, file in files.items()}
            for part in map(PredictionStore, parts):
                for name, stream in streams.items():
                    stream.write(getattr(part, name).data)
                ids += part.image_ids()
                counts.append(np.diff(part.detection_stop, prepend=0))
        images = {'image_id': pa.array(ids, pa.string()), 'detection_stop': _stops(counts)}
        kinds = {'label': pa.int32(), 'score': pa.float32(), 'box': pa.float64()}
        columns = {name: _map_values(files[name], kind) for name, kind in kinds.items()}
        _write(folder, images, columns, label_names, class_names)
        for file in files.values():
            file.unlink()
    return len(columns['label'])


def _stops(counts: Sequence[np.ndarray]) -> np.ndarray:
    return np.cumsum(np.concatenate(counts), dtype=np.int64)


def _map_values(file: Path, kind: pa.DataType) -> pa.Array:
    """All values of a file without a header."""
    size = file.stat().st_size
    buffer = pa.memory_map(str(file)).read_buffer() if size else pa.py_buffer(b'')
    return pa.Array.from_buffers(kind, size * 8 // kind.bit_width, [None, buffer])


def _write(
    folder: Path,
    images: dict[str, pa.Array],
    columns: dict[str, pa.Array],
    label_names: Sequence[str],
    class_names: Sequence[str],
) -> None:
    """Writes the files; ``columns['box']`` holds (4 D,) coordinates."""
    boxes = pa.FixedSizeListArray.from_arrays(columns['box'], 4)
    tables = {'images': pa.table(images), 'detections': pa.table({**columns, 'box': boxes})}
    metadata = {'label_names': list(label_names), 'class_names': list(class_names)}
    write_tables(folder, tables, FORMAT, VERSION, metadata)
