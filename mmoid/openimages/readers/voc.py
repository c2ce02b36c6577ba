"""Pascal VOC XML files -> AnnotationStore."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PureWindowsPath
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.conversion import pixel_content, pixel_rows, with_cut_boxes, write_converted
from mmoid.openimages.readers.csv_files import UNKNOWN, flag_of_text
from mmoid.openimages.readers.image_files import files_below, with_found_files, with_sizes_of_files
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import MissingImages
from mmoid.utils.progress import Progress, no_progress

_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
_TAGS = ('occluded', 'truncated', 'difficult')


def import_voc(
    out: str | Path,
    *,
    annotations: str | Path,
    images: str | Path | None = None,
    hierarchy: str | Path | None = None,
    missing_images: MissingImages = 'error',
    annotated_classes: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Summary:
    """Writes an :class:`AnnotationStore` of a folder of Pascal VOC XML files.

    Corners count pixels from 1, both included, as in the official files. A class is its name; classes are sorted.
    ``occluded`` and ``truncated`` are kept. Objects marked ``difficult`` are kept and counted.

    ``annotations`` is the folder of the XML files. They and the image files may be in sub-folders; a ``filename`` that
    several have is of an image in the sub-folder of the XML file. A missing ``size`` comes from the image file.
    ``missing_images='drop'`` drops unreadable XML files too. The other arguments and errors are those of
    :func:`~mmoid.openimages.readers.official_csv.convert`.
    """
    require_replaceable(out, overwrite)
    files = sorted(name for name in files_below(annotations) if name.lower().endswith('.xml'))
    if not files:
        raise AnnotationError(f'{annotations}: has no XML files')
    summary = Summary()
    names: list[str] = []
    folders: list[Path] = []
    sizes: list[list[float]] = []
    rows: list[tuple[int, str, list[float], list[int], str]] = []
    faults, wrong = [], []
    for i, file in enumerate(files):
        path = Path(annotations, file)
        try:
            root = ElementTree.parse(path).getroot()
        except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
            faults.append(f'{path} ({error})')
            continue
        progress('reading', i + 1, len(files))
        if root.tag.lower() != 'annotation':
            summary.drop('XML files that are no annotations', 1, str(path))
            continue
        image = len(names)
        names.append((root.findtext('filename') or '').strip() or f'{path.stem}.jpg')
        folders.append(Path(file).parent)
        try:
            sizes.append([_size(path, root, tag, images is not None) for tag in ('size/width', 'size/height')])
            for k, item in enumerate(root.iter('object'), start=1):
                place = f'{path}: object {k}'
                left, top, right, bottom = (_number(place, item, f'bndbox/{tag}') for tag in _CORNERS)
                flag = [flag_of_text(item.findtext(tag) or '') for tag in _TAGS]
                marks = [UNKNOWN if value is None else value for value in flag]
                if marks[2] == 1:
                    summary.change('objects marked difficult, taken like others', 1, place)
                rows.append((image, _text(place, item, 'name'), [left - 1, top - 1, right, bottom], marks, place))
        except AnnotationError as error:
            wrong.append(str(error))
    if wrong:
        raise AnnotationError('\n  '.join([f'{annotations}: {len(wrong)} XML files are wrong:', *wrong]))
    if faults and (missing_images == 'error' or not names):
        remedy = "replace them, or drop them with missing_images='drop' (--missing-images drop)"
        listed = ''.join(f'\n  {fault}' for fault in faults)
        raise AnnotationError(f'{annotations}: {len(faults)} XML files cannot be read; {remedy}:{listed}')
    summary.drop('XML files that cannot be read', len(faults), faults[0] if faults else '')
    if not names:
        raise AnnotationError(f'{annotations}: no XML file is a Pascal VOC annotation; {"; ".join(summary.lines())}')
    count = Counter(names)
    paths = (folder / PureWindowsPath(name).name for folder, name in zip(folders, names))
    names = [path.as_posix() if count[name] > 1 else name for path, name in zip(paths, names)]
    classes = ClassNames(tuple(sorted({row[1] for row in rows})), (), str(annotations))
    image_of_row = np.array([row[0] for row in rows], dtype=np.int32)
    box = np.array([row[2] for row in rows]).reshape(-1, 4)
    mark = np.array([row[3] for row in rows], dtype=np.int8).reshape(-1, len(_TAGS))
    flags = {'IsOccluded': mark[:, 0], 'IsTruncated': mark[:, 1]}
    label = classes.find(pa.array([row[1] for row in rows], pa.string()))
    boxes = pixel_rows(image_of_row, label, box, flags)
    content = pixel_content(annotations, names, boxes, classes, hierarchy, summary).with_sizes(np.array(sizes))
    if images is not None:
        content = with_found_files(content, images, missing_images)
        content = with_sizes_of_files(content, images, missing_images, progress)
    content = with_cut_boxes(content, lambda k: rows[k][4])
    return write_converted(out, content, (hierarchy,), images, annotated_classes, overwrite, progress)


def _text(place: object, element: ElementTree.Element, tag: str) -> str:
    text = (element.findtext(tag) or '').strip()
    if not text:
        raise AnnotationError(f'{place}: has no {tag}')
    return text


def _number(place: object, element: ElementTree.Element, tag: str) -> float:
    text = _text(place, element, tag)
    if not np.isfinite(value := _float(text)):
        raise AnnotationError(f'{place}: {tag} = {text!r} must be a number')
    return value


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _size(place: object, element: ElementTree.Element, tag: str, may_be_unknown: bool) -> float:
    """Pixels; 0 if the tag is missing or 0, where the size of the image file can replace it."""
    text = (element.findtext(tag) or '').strip()
    if may_be_unknown and text in ('', '0'):
        return 0
    value = _float(text)
    if not (value.is_integer() and 1 <= value < 1 << 31):
        remedy = 'if it is unknown, give the images (--images)'
        raise AnnotationError(f'{place}: {tag} = {text!r} must be a whole number of at least 1 pixel; {remedy}')
    return value
