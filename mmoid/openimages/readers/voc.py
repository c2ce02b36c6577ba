"""Pascal VOC XML files -> AnnotationStore."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy, flat_tree, load_tree
from mmoid.openimages.image_ids import number_images
from mmoid.openimages.readers.csv_files import UNKNOWN
from mmoid.openimages.readers.image_files import files_below, find_images
from mmoid.openimages.readers.pixel_boxes import rows_of_pixels
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import NO_LABELS, Content, write_converted
from mmoid.utils.progress import Progress, no_progress

FLAG_TAGS = {'IsOccluded': 'occluded', 'IsTruncated': 'truncated'}


def import_voc(
    out: str | Path,
    *,
    annotations: str | Path,
    images: str | Path | None = None,
    hierarchy: str | Path | None = None,
    missing_images: Literal['error', 'drop'] = 'error',
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Summary:
    """Writes an :class:`AnnotationStore` of a folder of Pascal VOC XML files.

    Corners count pixels from 1, both included, as in the official files. A class is its name; classes are sorted.
    ``occluded`` and ``truncated`` are kept. Objects marked ``difficult`` are kept and counted.

    Args:
        out: The store's folder.
        annotations: Folder of XML files, sub-folders included.
        images: Image folder, to record it and to look for the files, which may be in sub-folders.
        hierarchy: Hierarchy JSON over the classes; without it, no class has ancestors.
        missing_images: Images that are not in the folder: raise, or drop them.
        overwrite: Replace a store that is there.
        progress: Callback.

    Raises:
        AnnotationError: A bad file. The message names the file and element.
        OSError: ``out`` exists or cannot be written.
    """
    require_replaceable(out, overwrite)
    files = sorted(name for name in files_below(annotations) if name.lower().endswith('.xml'))
    if not files:
        raise AnnotationError(f'{annotations}: has no XML files')
    summary = Summary()
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    places: list[str] = []
    rows: list[tuple[int, str, list[float], list[int]]] = []
    for i, file in enumerate(files):
        path = Path(annotations, file)
        root = _parse(path)
        names.append((root.findtext('filename') or '').strip() or f'{path.stem}.jpg')
        sizes.append((_pixels(path, root, 'size/width'), _pixels(path, root, 'size/height')))
        for k, item in enumerate(root.iter('object'), start=1):
            place = f'{path}: object {k}'
            corners = [_number(place, item, f'bndbox/{tag}') for tag in ('xmin', 'ymin', 'xmax', 'ymax')]
            marks = [_flag(item, tag) for tag in (*FLAG_TAGS.values(), 'difficult')]
            places.append(place)
            rows.append((i, _text(place, item, 'name'), [corners[0] - 1, corners[1] - 1, *corners[2:]], marks))
        progress('reading', i + 1, len(files))
    ids = number_images(pa.chunked_array([pa.array(names, pa.string())]))[0]
    if len(ids) < len(names):
        raise AnnotationError(f'{annotations}: {len(names)} files describe {len(ids)} images')
    mids = tuple(sorted({row[1] for row in rows}))
    classes = ClassNames(mids, (), str(annotations))
    tree = flat_tree(mids) if hierarchy is None else load_tree(hierarchy)
    ClassHierarchy(tree, mids, str(hierarchy or annotations))  # fail now
    label = classes.find(pa.array([row[1] for row in rows], pa.string()))
    image = np.array([row[0] for row in rows], dtype=np.int32)
    box = np.array([row[2] for row in rows]).reshape(-1, 4)
    flag = np.array([row[3] for row in rows], dtype=np.int8).reshape(-1, 3)
    summary.change('objects marked difficult, taken like others', (flag[:, 2] == 1).sum())
    size = np.array(sizes)
    flags = dict(zip(FLAG_TAGS, flag[:, :2].T))
    boxes = rows_of_pixels(image, label, box, size, flags, summary, places.__getitem__)
    table = pa.table({'image_id': ids, 'file_name': names})
    content = Content(table, boxes, NO_LABELS, classes, tree, summary).with_sizes(size)
    if images is not None:
        found = find_images(images, content.images['file_name'].combine_chunks(), summary)
        content = content.with_file_names(found).with_files(found.is_valid().to_numpy(False), images, missing_images)
    return write_converted(Path(out), content, (hierarchy,), images, overwrite)


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise AnnotationError(f'{path}: cannot be read as XML ({error})') from error


def _text(place: object, element: ElementTree.Element, tag: str) -> str:
    text = (element.findtext(tag) or '').strip()
    if not text:
        raise AnnotationError(f'{place}: has no {tag}')
    return text


def _number(place: object, element: ElementTree.Element, tag: str) -> float:
    text = _text(place, element, tag)
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise AnnotationError(f'{place}: {tag} = {text!r} must be a number')
    return value


def _pixels(place: object, element: ElementTree.Element, tag: str) -> int:
    value = _number(place, element, tag)
    if not (1 <= value < 1 << 31 and value == int(value)):
        raise AnnotationError(f'{place}: {tag} = {value!r} must be a whole number of at least 1 pixel')
    return int(value)


def _flag(element: ElementTree.Element, tag: str) -> int:
    """1, 0, or unknown. Some tools write ``Unspecified``."""
    return {'1': 1, '0': 0}.get((element.findtext(tag) or '').strip(), UNKNOWN)
