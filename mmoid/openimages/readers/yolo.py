"""YOLO data set (``data.yaml``, images, a text file for each image) -> AnnotationStore."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.conversion import pixel_content, pixel_rows, with_cut_boxes, write_converted
from mmoid.openimages.readers.csv_files import open_text
from mmoid.openimages.readers.image_files import files_below, images_below, with_sizes_of_files
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import MissingImages
from mmoid.utils.progress import Progress, no_progress


class _Data(msgspec.Struct):
    names: list[str | int] | dict[int, str | int]
    nc: int | None = None
    path: str | None = None
    train: str | list[str] | None = None
    val: str | list[str] | None = None
    test: str | list[str] | None = None
    kpt_shape: tuple[int, int] | None = None  # number of key points of an object, and of values of each


def import_yolo(
    out: str | Path,
    *,
    data: str | Path,
    split: Literal['train', 'val', 'test'] = 'train',
    hierarchy: str | Path | None = None,
    missing_images: MissingImages = 'error',
    annotated_classes: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Summary:
    """Writes an :class:`AnnotationStore` of one split of a YOLO data set.

    The text file of ``images/x/a.jpg`` is ``labels/x/a.txt``; an image without it has no boxes. A row is
    ``class x y width height``, with key points if ``data`` has a ``kpt_shape``, or ``class x1 y1 x2 y2 ...`` of a
    polygon, as fractions of the image size. Rows with the same box are one object with several labels. A class is its
    name. There are no verified classes.

    ``data`` is the ``data.yaml`` with ``names`` and the image folders of the splits. The other arguments and errors are
    those of :func:`~mmoid.openimages.readers.official_csv.convert`.
    """
    require_replaceable(out, overwrite)
    path = Path(data)
    try:
        described = msgspec.yaml.decode(path.read_bytes(), type=_Data, strict=False)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        fault = ' '.join(str(error).split())  # of several lines
        raise AnnotationError(f'{path}: cannot be read as data.yaml ({fault})') from error
    given = described.names
    if described.nc not in (None, len(given)):
        raise AnnotationError(f'{path}: nc is {described.nc}, but names has {len(given)} names; correct one of them')
    name_of_number = dict(sorted(given.items())) if isinstance(given, dict) else dict(enumerate(given))
    label_of_number = {number: label for label, number in enumerate(name_of_number)}
    classes = ClassNames(tuple(map(str, name_of_number.values())), (), str(path))
    root = path.parent / (described.path or '')
    if not root.is_dir():  # ``path`` of another machine
        root = path.parent
    folders = getattr(described, split)
    if folders is None:
        raise AnnotationError(f'{path}: has no {split!r}; it names the image folder of the split')
    summary = Summary()
    files: list[str] = []
    for folder in [folders] if isinstance(folders, str) else folders:
        files += _images(root, folder, summary)
    label_files = [root / _label_file(name) for name in files]
    num_keypoint_values = math.prod(described.kpt_shape or (0,))
    rows: list[tuple[int, int, list[float], str]] = []
    faults = []
    for i, file in enumerate(label_files):
        try:
            rows += ((i, *row) for row in _rows(file, label_of_number, num_keypoint_values))
        except AnnotationError as error:
            faults.append(str(error))
        if i % 512 == 0:
            progress('reading labels', i, len(label_files))
    progress('reading labels', len(label_files), len(label_files))
    if faults:
        count = [f'{path}: {len(faults)} label files are wrong:'] if len(faults) > 1 else []
        raise AnnotationError('\n  '.join(count + faults))
    unlabelled = [file for file in label_files if not file.is_file()]
    if label_files and len(unlabelled) == len(label_files):
        raise AnnotationError(f'{label_files[0]}: no such file; no image has a label file')
    first = str(unlabelled[0]) if unlabelled else ''
    summary.change('images without a label file, taken as without boxes', len(unlabelled), first)
    image, label = (np.array([row[k] for row in rows], dtype=np.int32) for k in (0, 1))
    boxes = pixel_rows(image, label, np.array([row[2] for row in rows]).reshape(-1, 4))
    content = pixel_content(f'{path}: {split}', files, boxes, classes, hierarchy, summary)
    content = with_sizes_of_files(content, root, missing_images, progress)
    pixels = content.boxes.columns['box'] * np.tile(content.sizes[content.boxes.image], 2)
    content = replace(content, boxes=replace(content.boxes, columns={**content.boxes.columns, 'box': pixels}))
    content = with_cut_boxes(content, lambda k: rows[k][3])
    return write_converted(out, content, (data, hierarchy), root, annotated_classes, overwrite, progress)


def _images(root: Path, folder: str, summary: Summary) -> list[str]:
    """Images of a folder, or of a text file that lists them, as paths below ``root``."""
    folder = folder.removeprefix('../') if not (root / folder).exists() else folder  # Roboflow writes ../train/images
    place = root / folder
    if place.is_file():
        lines = ((i, line.strip()) for i, line in enumerate(_lines(place), 1))
        return [_below(root, name, f'{place}:{i}: {name!r}') for i, name in lines if name]
    below = _below(root, folder, f'{place}:')
    files = [f'{below}/{name}' if below != '.' else name for name in images_below(place, summary).to_pylist()]
    labels = Path(_label_file(f'{below}/any.jpg')).parent
    if labels.as_posix() != below and (root / labels).is_dir():
        given = {f'{labels}/{name}' for name in files_below(root / labels) if name.endswith('.txt')}
        lost = sorted(given - {_label_file(file) for file in files})
        summary.drop('label files without an image', len(lost), str(root / lost[0]) if lost else '')
    return files


def _below(root: Path, name: str, what: str) -> str:
    """The path below ``root`` of a file or folder; many tools write absolute ones. What is below may be a link."""
    for absolute in (os.path.abspath, os.path.realpath):
        path = Path(absolute(root / name))
        for home in (os.path.abspath(root), os.path.realpath(root)):
            if path.is_relative_to(home):
                return path.relative_to(home).as_posix()
    raise AnnotationError(f'{what} lies outside {root}, the folder of the data set; set path in data.yaml')


def _label_file(image: str) -> str:
    folders, _, name = image.rpartition('/')
    folders = re.sub(r'(.*/|^)images(/|$)', r'\1labels\2', folders + '/')
    return f'{folders}{name.rpartition(".")[0]}.txt'


def _lines(path: Path) -> list[str]:
    with open_text(path) as stream:
        return stream.read().splitlines()


def _rows(
    path: Path, label_of_number: dict[int, int], num_keypoint_values: int
) -> Iterable[tuple[int, list[float], str]]:
    """Class index; xmin, ymin, xmax, ymax as fractions; file and line: of each row of a text file, if there is one."""
    for number, line in enumerate(_lines(path) if path.is_file() else (), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            label, *values = map(float, fields)
        except ValueError:
            values = [np.nan]
        if num_keypoint_values and len(values) == 4 + num_keypoint_values:
            values = values[:4]
        if not np.isfinite(values).all() or not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
            raise AnnotationError(f"{path}:{number}: expected 'class x y width height', got {line!r}")
        if label not in label_of_number:
            raise AnnotationError(
                f'{path}:{number}: class {fields[0]} is not one of the {len(label_of_number)} names of data.yaml'
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
        yield label_of_number[int(label)], box, f'{path}:{number}'
