"""Pascal VOC XML files -> AnnotationStore."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import tree_over
from mmoid.openimages.readers.annotated_classes import with_annotated_classes
from mmoid.openimages.readers.csv_files import UNKNOWN
from mmoid.openimages.readers.image_files import files_below, with_found_files
from mmoid.openimages.readers.pixel_boxes import image_table, rows_of_pixels
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import NO_LABELS, Content, MissingImages, write_converted
from mmoid.utils.progress import Progress, no_progress

_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
_TAGS = ('occluded', 'truncated', 'difficult')
_MARKS = {'1': 1, '0': 0}  # others, such as the ``Unspecified`` of some tools, are unknown


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

    ``annotations`` is the folder of the XML files. They and the image files may be in sub-folders. The other arguments
    and errors are those of :func:`~mmoid.openimages.readers.official_csv.convert`.
    """
    require_replaceable(out, overwrite)
    files = sorted(name for name in files_below(annotations) if name.lower().endswith('.xml'))
    if not files:
        raise AnnotationError(f'{annotations}: has no XML files')
    summary = Summary()
    names: list[str] = []
    sizes: list[list[float]] = []
    rows: list[tuple[int, str, list[float], list[int], str]] = []
    for i, file in enumerate(files):
        path = Path(annotations, file)
        try:
            root = ElementTree.parse(path).getroot()
        except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
            raise AnnotationError(f'{path}: cannot be read as XML ({error})') from error
        progress('reading', i + 1, len(files))
        if root.tag.lower() != 'annotation':
            summary.drop('XML files that are no annotations', 1, str(path))
            continue
        image = len(names)
        names.append((root.findtext('filename') or '').strip() or f'{path.stem}.jpg')
        sizes.append([_number(path, root, tag, whole=True) for tag in ('size/width', 'size/height')])
        for k, item in enumerate(root.iter('object'), start=1):
            place = f'{path}: object {k}'
            left, top, right, bottom = (_number(place, item, f'bndbox/{tag}') for tag in _CORNERS)
            marks = [_MARKS.get((item.findtext(tag) or '').strip(), UNKNOWN) for tag in _TAGS]
            if marks[2] == 1:
                summary.change('objects marked difficult, taken like others', 1, place)
            rows.append((image, _text(place, item, 'name'), [left - 1, top - 1, right, bottom], marks, place))
    classes = ClassNames(tuple(sorted({row[1] for row in rows})), (), str(annotations))
    tree = tree_over(classes, hierarchy)
    image_of_row = np.array([row[0] for row in rows], dtype=np.int32)
    box = np.array([row[2] for row in rows]).reshape(-1, 4)
    mark = np.array([row[3] for row in rows], dtype=np.int8).reshape(-1, len(_TAGS))
    flags = {'IsOccluded': mark[:, 0], 'IsTruncated': mark[:, 1]}
    label, size = classes.find(pa.array([row[1] for row in rows], pa.string())), np.array(sizes)
    boxes = rows_of_pixels(image_of_row, label, box, size, flags, summary, lambda k: rows[k][4])
    content = Content(image_table(names, annotations), boxes, NO_LABELS, classes, tree, summary).with_sizes(size)
    if images is not None:
        content = with_found_files(content, images, missing_images)
    content = with_annotated_classes(content, annotated_classes)
    return write_converted(out, content, (hierarchy, annotated_classes), images, overwrite, progress)


def _text(place: object, element: ElementTree.Element, tag: str) -> str:
    text = (element.findtext(tag) or '').strip()
    if not text:
        raise AnnotationError(f'{place}: has no {tag}')
    return text


def _number(place: object, element: ElementTree.Element, tag: str, whole: bool = False) -> float:
    text = _text(place, element, tag)
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not (value.is_integer() and 1 <= value < 1 << 31 if whole else np.isfinite(value)):
        expected = 'a whole number of at least 1 pixel' if whole else 'a number'
        raise AnnotationError(f'{place}: {tag} = {text!r} must be {expected}')
    return value
