"""YOLO data set (``data.yaml``, images, a text file for each image) -> AnnotationStore."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy, flat_tree, load_tree
from mmoid.openimages.image_ids import number_images
from mmoid.openimages.readers.image_files import images_below, with_sizes_of_files
from mmoid.openimages.readers.pixel_boxes import rows_of_pixels
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import NO_BOXES, NO_LABELS, Content, write_converted
from mmoid.utils.progress import Progress, no_progress

ROUNDING = 1  # pixels by which a box may leave its image without being counted as cut


class _Data(msgspec.Struct):
    names: list[str] | dict[int, str]
    path: str | None = None
    train: str | list[str] | None = None
    val: str | list[str] | None = None
    test: str | list[str] | None = None


def import_yolo(
    out: str | Path,
    *,
    data: str | Path,
    split: Literal['train', 'val', 'test'] = 'train',
    hierarchy: str | Path | None = None,
    missing_images: Literal['error', 'drop'] = 'error',
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Summary:
    """Writes an :class:`AnnotationStore` of one split of a YOLO data set.

    The text file of ``images/x/a.jpg`` is ``labels/x/a.txt``; an image without it has no boxes. A row is
    ``class x y width height``, or ``class x1 y1 x2 y2 ...`` of a polygon, as fractions of the image size. Rows with the
    same box are one object with several labels. A class is its name. There are no verified classes.

    Args:
        out: The store's folder.
        data: ``data.yaml`` with ``names`` and the image folders of the splits.
        split: The split.
        hierarchy: Hierarchy JSON over the classes; without it, no class has ancestors.
        missing_images: Images that cannot be read: raise, or drop them.
        overwrite: Replace a store that is there.
        progress: Callback.

    Raises:
        AnnotationError: A bad file or row. The message names the file and line.
        OSError: ``out`` exists or cannot be written.
    """
    require_replaceable(out, overwrite)
    path = Path(data)
    described = _decode(path)
    names = (
        described.names if isinstance(described.names, list) else [described.names[i] for i in sorted(described.names)]
    )
    index = range(len(names)) if isinstance(described.names, list) else sorted(described.names)
    classes = ClassNames(tuple(names), (), str(path))
    tree = flat_tree(names) if hierarchy is None else load_tree(hierarchy)
    ClassHierarchy(tree, names, str(hierarchy or path))  # fail now
    root = path.parent / (described.path or '')
    if not root.is_dir():  # ``path`` of another machine
        root = path.parent
    folders = getattr(described, split)
    if folders is None:
        raise AnnotationError(f'{path}: has no {split!r}; it names the image folder of the split')
    files = [file for folder in ([folders] if isinstance(folders, str) else folders) for file in _images(root, folder)]
    ids = number_images(pa.chunked_array([pa.array(files, pa.string())]))[0]
    if len(ids) < len(files):
        raise AnnotationError(f'{path}: the {split} folders hold {len(files)} images of {len(ids)} names')
    summary = Summary()
    table = pa.table({'image_id': ids, 'file_name': files})
    content = Content(table, NO_BOXES, NO_LABELS, classes, tree, summary)
    content = with_sizes_of_files(content, root, missing_images, progress)
    size = np.stack([content.images[name].to_numpy() for name in ('width', 'height')], axis=1)
    rows: list[tuple[int, int, list[float]]] = []
    for i, name in enumerate(content.images['file_name'].to_pylist()):
        rows += ((i, label, box) for label, box in _rows(root / _label_file(name), list(index)))
        if i % 512 == 0:
            progress('reading labels', i, len(files))
    progress('reading labels', len(files), len(files))
    image, label = (np.array([row[k] for row in rows], dtype=np.int32) for k in (0, 1))
    box = np.array([row[2] for row in rows]).reshape(-1, 4) * np.tile(size[image], 2)
    boxes = rows_of_pixels(image, label, box, size, {}, ROUNDING, summary)
    content = Content(content.images, boxes, NO_LABELS, classes, tree, summary)
    return write_converted(Path(out), content, (data, hierarchy), root, overwrite)


def _decode(path: Path) -> _Data:
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=_Data)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AnnotationError(f'{path}: cannot be read as data.yaml ({error})') from error


def _images(root: Path, folder: str) -> Iterable[str]:
    """Images of a folder, or of a text file that lists them, as paths below ``root``."""
    folder = folder.removeprefix('../') if not (root / folder).exists() else folder  # Roboflow writes ../train/images
    place = root / folder
    if place.is_file():
        names = [line.strip().removeprefix('./') for line in place.read_text().splitlines() if line.strip()]
        return names
    if not place.resolve().is_relative_to(root.resolve()):
        raise AnnotationError(f'{place}: lies outside {root}, the folder of the data set; set path in data.yaml')
    below = place.resolve().relative_to(root.resolve()).as_posix()
    return [f'{below}/{name}' if below != '.' else name for name in images_below(place).to_pylist()]


def _label_file(image: str) -> str:
    folders, _, name = image.rpartition('/')
    folders = re.sub(r'(^|.*/)images(/|$)', r'\1labels\2', folders + '/')
    return f'{folders}{name.rpartition(".")[0]}.txt'


def _rows(path: Path, index: list[int]) -> Iterable[tuple[int, list[float]]]:
    """Class index, and xmin, ymin, xmax, ymax as fractions, of each row of a text file."""
    if not path.is_file():
        return
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f'{path}: cannot be read ({error})') from error
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            label, *values = map(float, fields)
        except ValueError:
            values = [np.nan]
        if not np.isfinite(values).all() or not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
            raise AnnotationError(f"{path}:{number}: expected 'class x y width height', got {line!r}")
        if label not in index:
            raise AnnotationError(
                f'{path}:{number}: class {fields[0]} is not one of the {len(index)} names of data.yaml'
            )
        if max(values) > 2 or min(values) < -1:
            raise AnnotationError(
                f'{path}:{number}: {line!r} is far outside [0, 1]; expected fractions of the image size'
            )
        if len(values) == 4:
            x, y, width, height = values
            box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        else:
            box = [min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])]
        yield index.index(int(label)), box
