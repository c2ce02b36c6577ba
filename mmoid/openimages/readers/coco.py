"""COCO JSON file -> AnnotationStore, and back.

Reads the object-detection format (https://cocodataset.org/#format-data) and the customary keys of Open Images in it:
``freebase_id`` or ``mid`` of categories, ``pos_category_ids``, ``neg_category_ids`` and ``not_exhaustive_category_ids``
of images, and the flags of annotations. Ids are numbers or strings: ``"7"`` and ``7`` are the same. Everything else,
such as ``segmentation``, is ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmoid.openimages.classes import ClassNames, require_unique
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy, flat_tree, load_tree
from mmoid.openimages.image_ids import spellings
from mmoid.openimages.readers.conversion import pixel_rows, with_cut_boxes, write_converted
from mmoid.openimages.readers.csv_files import UNKNOWN, flag_of_text
from mmoid.openimages.readers.image_files import images_below, with_found_files, with_sizes_of_files
from mmoid.openimages.store.annotation_store import NOT_EXHAUSTIVE, AnnotationStore
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import Content, MissingImages, Rows
from mmoid.utils.atomic import atomic_write
from mmoid.utils.progress import Progress, no_progress

FLAG_KEYS = {
    'IsOccluded': ('is_occluded', 'isoccluded'),
    'IsTruncated': ('is_truncated', 'istruncated'),
    'IsGroupOf': ('is_group_of', 'isgroupof', 'iscrowd'),
    'IsDepiction': ('is_depiction', 'isdepiction'),
    'IsInside': ('is_inside', 'isinside'),
}
"""Keys of an annotation by flag. The first that is there counts; it is the one that :func:`export_coco` writes."""

IMAGE_LABEL_KEYS = {'pos_category_ids': 1, 'neg_category_ids': 0, 'not_exhaustive_category_ids': NOT_EXHAUSTIVE}
"""Confidence by the key of an image that lists its classes."""

HIERARCHY_KEY = 'class_hierarchy'  # within ``info``, in the form of the official JSON
EXPORT_CHUNK = 1 << 16  # images or annotations written at once
ROUNDING = 0.01  # pixels by which a box may leave its image without being counted as cut: files round to two decimals

_Id = int | float | str
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Pixels = Annotated[float, msgspec.Meta(ge=1, le=2**31 - 1, multiple_of=1)]  # some files write 640.0
_Flag = bool | Annotated[float, msgspec.Meta(ge=-1, le=1, multiple_of=1)] | str | None


class _Category(msgspec.Struct):
    id: _Id
    name: _Text
    freebase_id: _Text | None = None
    mid: _Text | None = None
    supercategory: str | None = None


class _Image(msgspec.Struct, gc=False):
    id: _Id
    width: _Pixels
    height: _Pixels
    file_name: _Text | None = None
    coco_url: _Text | None = None
    openimages_id: _Text | None = None
    pos_category_ids: tuple[_Id, ...] | None = None
    neg_category_ids: tuple[_Id, ...] | None = None
    not_exhaustive_category_ids: tuple[_Id, ...] | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: _Id
    category_id: _Id
    bbox: tuple[float, float, float, float]
    is_occluded: _Flag = None
    isoccluded: _Flag = None
    is_truncated: _Flag = None
    istruncated: _Flag = None
    is_group_of: _Flag = None
    isgroupof: _Flag = None
    iscrowd: _Flag = None
    is_depiction: _Flag = None
    isdepiction: _Flag = None
    is_inside: _Flag = None
    isinside: _Flag = None


class _Document(msgspec.Struct):
    categories: Annotated[list[_Category], msgspec.Meta(min_length=1)]
    images: list[_Image]
    annotations: list[_Annotation]
    info: Any = None


class _V3DetTree(msgspec.Struct):
    """What is read of ``v3det_2023_v1_category_tree.json``.

    The keys are those that ``evaluation/cocoeval_mp.py`` and ``v3det_visualize_tree.py`` of
    https://github.com/V3Det/V3Det read.
    """

    categoryid2treeid: dict[str, _Text]  # node of each category, such as n02084071
    father2child: dict[str, list[_Text]]  # nodes below a node


_Form = TypeVar('_Form')


def import_coco(
    out: str | Path,
    *,
    annotations: str | Path,
    images: str | Path | None = None,
    hierarchy: str | Path | None = None,
    supercategories: bool = False,
    missing_images: MissingImages = 'error',
    annotated_classes: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Summary:
    """Writes an :class:`AnnotationStore` of one COCO JSON file.

    Classes come in the order of ``categories``; a class is its ``freebase_id``, else its ``mid``, else its name.
    Boxes are cut at the edges of the image, and dropped if they have no area. The summary counts both, and images whose
    file has another size.

    The ``file_name`` of an image is looked for below the folder ``images``, as
    :func:`~mmoid.openimages.readers.image_files.find_images` does. Without ``hierarchy``, the one that
    :func:`export_coco` writes into the file counts; else no class has ancestors. With ``supercategories``, each becomes
    a class above its categories, after these. Its name is its MID.

    ``hierarchy`` may be the category tree of V3Det. A class is then its node, since some categories have the same name.
    Nodes that are no categories do not become classes; ancestry through them is kept.

    The other arguments and errors are those of :func:`~mmoid.openimages.readers.official_csv.convert`; the message of
    an AnnotationError names the element, such as ``annotations[3].bbox``.
    """
    require_replaceable(out, overwrite)
    path = Path(annotations)
    progress('reading', 0, 1)
    document = _decode(path, _Document)
    if supercategories and hierarchy is not None:
        raise ValueError('supercategories, hierarchy: give one of them (--supercategories, --hierarchy)')
    categories = document.categories
    mids = tuple(category.freebase_id or category.mid or category.name for category in categories)
    tree, tree_source = flat_tree(mids), str(path)
    if hierarchy is not None:
        tree, tree_source = load_tree(hierarchy), str(hierarchy)
        if isinstance(tree, dict) and 'father2child' in tree:
            mids, tree = _v3det_classes(Path(hierarchy), categories)
    elif isinstance(document.info, dict) and HIERARCHY_KEY in document.info:
        tree, tree_source = document.info[HIERARCHY_KEY], f'{path}: info.{HIERARCHY_KEY}'
    require_unique(mids, lambda i: f'{path}: categories[{i}]')
    classes = ClassNames(mids, tuple(category.name for category in categories), str(path))
    if supercategories:
        classes, tree = _with_supercategories(categories, classes)
        tree_source = f'{path}: supercategory'
    ClassHierarchy(tree, classes.label_names, tree_source)  # fail now
    category = _positions([_plain_id(category.id) for category in categories], f'{path}: categories', 'id')
    images_of_ids = _positions([_plain_id(image.id) for image in document.images], f'{path}: images', 'id')
    table = _image_table(path, document.images)
    labels = _image_labels(path, document.images, category)
    summary = Summary(box_rows=len(document.annotations), label_rows=len(labels))
    boxes = _boxes(path, document.annotations, images_of_ids, category, summary)
    content = Content(table, boxes, labels, classes, tree, summary, upright=True)
    del document  # Python objects, far larger than the arrays
    progress('reading', 1, 1)
    if images is not None:
        content = _with_files_below(content, images, missing_images)
        content = with_sizes_of_files(content, images, missing_images, progress)
    content = with_cut_boxes(content, lambda i: f'{path}: annotations[{i}]', ROUNDING)
    return write_converted(out, content, (annotations, hierarchy), images, annotated_classes, overwrite, progress)


def _decode(path: Path, form: type[_Form]) -> _Form:
    try:
        data = path.read_bytes().removeprefix(b'\xef\xbb\xbf')
        try:
            return msgspec.json.decode(data, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if isinstance(error, msgspec.ValidationError):
                raise
            # Python's slower reader takes the NaN that its writer makes, and UTF-16; its errors give the line.
            return msgspec.convert(json.loads(data), type=form)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(' - at `$')
        place = where.rstrip('`').lstrip('.')
        wanted = '' if place else '; expected a file with images, annotations and categories'
        raise AnnotationError(f'{path}: {place}: {what}' if place else f'{path}: {what}{wanted}') from error
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no text, or no JSON
        raise AnnotationError(f'{path}: cannot be read as JSON ({error})') from error


def _v3det_classes(path: Path, categories: Sequence[_Category]) -> tuple[tuple[str, ...], dict]:
    """The nodes of the categories in a category tree of V3Det, and the tree as :class:`ClassHierarchy` takes it."""
    given = _decode(path, _V3DetTree)
    for category in categories:
        if str(_plain_id(category.id)) not in given.categoryid2treeid:
            raise AnnotationError(f'{path}: categoryid2treeid: has no node of category {category.id} {category.name!r}')
    nodes = tuple(given.categoryid2treeid[str(_plain_id(category.id))] for category in categories)
    below = [
        {'LabelName': node, 'Subcategory': [{'LabelName': child} for child in children]}
        for node, children in given.father2child.items()
    ]
    return nodes, {**flat_tree(nodes), 'Subcategory': below}


def _with_supercategories(categories: Sequence[_Category], classes: ClassNames) -> tuple[ClassNames, dict]:
    """The classes and, after them, the supercategories that are none of them; and the hierarchy of both."""
    # A category such as "person" may be its own supercategory.
    by_name = {category.name: mid for category, mid in zip(categories, classes.label_names)}
    below: dict[str, list[str]] = {}
    for category, mid in zip(categories, classes.label_names):
        above = by_name.get(category.supercategory or '', category.supercategory)
        if above and above not in (mid, 'none'):  # Roboflow writes "none"
            below.setdefault(above, []).append(mid)
    if not below:
        raise AnnotationError(f'{classes.source}: no category has a supercategory other than itself')
    new = [name for name in below if name not in classes.label_names]
    names = ClassNames((*classes.label_names, *new), (*classes.display_names, *new), classes.source)
    nodes = [
        {'LabelName': mid, 'Subcategory': [{'LabelName': m} for m in below.get(mid, ())]} for mid in names.label_names
    ]
    return names, {**flat_tree(names.label_names), 'Subcategory': nodes}


def _plain_id(value: _Id) -> _Id:
    """The same id for 7, 7.0, ``"7"`` and ``"007"``."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r'[0-9]{1,18}', value) else value
    return int(value) if value == np.floor(value) else value


def _positions(values: Sequence[Any], array: str, key: str) -> dict[Any, int]:
    """Position of each value, each of which must occur once."""
    position: dict[Any, int] = {}
    for i, value in enumerate(values):
        if position.setdefault(value, i) != i:
            raise AnnotationError(f'{array}[{i}].{key}: {value!r} is that of {array}[{position[value]}] too')
    return position


def _image_table(path: Path, images: Sequence[_Image]) -> pa.Table:
    file_names = []
    for i, image in enumerate(images):
        if image.file_name is None and image.coco_url is None:
            raise AnnotationError(f'{path}: images[{i}]: Object missing required field `file_name`')
        # In files of LVIS, folder and name of the address, such as val2017/000000397133.jpg.
        file_names.append(image.file_name or '/'.join((image.coco_url or '').split('/')[-2:]))
    _positions(file_names, f'{path}: images', 'file_name')
    columns = {
        'image_id': pa.array(_image_ids(path, images, file_names), pa.string()),
        'file_name': pa.array(file_names, pa.string()),
        'width': np.array([image.width for image in images], dtype=np.int32),
        'height': np.array([image.height for image in images], dtype=np.int32),
    }
    return pa.table(columns)


def _image_ids(path: Path, images: Sequence[_Image], file_names: Sequence[str]) -> list[str]:
    """``openimages_id``, or the shortest part of the file names that is unique."""
    given = [image.openimages_id for image in images if image.openimages_id is not None]
    if not given:
        names = pa.array(file_names, pa.string())
        return next(ids for ids in spellings(names) if len(pc.unique(ids)) == len(ids) or ids is names).to_pylist()
    if len(given) < len(images):
        i = [image.openimages_id for image in images].index(None)
        raise AnnotationError(f'{path}: images[{i}]: has no openimages_id, but other images have one')
    _positions(given, f'{path}: images', 'openimages_id')
    return given


def _with_files_below(content: Content, images: str | Path, missing_images: MissingImages) -> Content:
    """Images without a file are an error, or dropped. If none has one, names count from their last folder on.

    Objects365 lists images/v1/patch8/a.jpg; its archives hold patch8/a.jpg.
    """
    files, names = images_below(images, Summary()), content.images['file_name']
    short = pc.replace_substring_regex(names, r'^.*/([^/]+/[^/]+)$', r'\1')
    if not pc.any(pc.is_in(names, files)).as_py() and len(pc.unique(short)) == len(short):
        content = content.with_columns(file_name=short)
    return with_found_files(content, images, missing_images)


def _image_labels(path: Path, images: Sequence[_Image], category: dict[Any, int]) -> Rows:
    rows = []
    for i, image in enumerate(images):
        for key, confidence in IMAGE_LABEL_KEYS.items():
            for category_id in getattr(image, key) or ():
                if (plain := _plain_id(category_id)) not in category:
                    raise AnnotationError(f'{path}: images[{i}].{key}: {category_id!r} is not the id of a category')
                rows.append((i, category[plain], confidence))
    columns = np.array(rows, dtype=np.int32).reshape(-1, 3).T
    return Rows(columns[0], columns[1], {'confidence': columns[2].astype(np.float32)})


def _boxes(
    path: Path,
    annotations: Sequence[_Annotation],
    image_of_id: dict[Any, int],
    category: dict[Any, int],
    summary: Summary,
) -> Rows:
    count = len(annotations)
    image = np.fromiter((image_of_id.get(_plain_id(row.image_id), -1) for row in annotations), np.int32, count)
    label = np.fromiter((category.get(_plain_id(row.category_id), -1) for row in annotations), np.int32, count)
    for index, key, what in ((image, 'image_id', 'an image'), (label, 'category_id', 'a category')):
        if (index < 0).any():
            i = int(np.argmax(index < 0))
            value = getattr(annotations[i], key)
            raise AnnotationError(f'{path}: annotations[{i}].{key}: {value!r} is not the id of {what}')
    flags = {name: _flags(path, annotations, keys, summary) for name, keys in FLAG_KEYS.items()}
    bbox: np.ndarray = np.fromiter((row.bbox for row in annotations), np.dtype((np.float64, 4)), count)
    return pixel_rows(image, label, np.hstack([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]]), flags)


def _flags(path: Path, annotations: Sequence[_Annotation], keys: Sequence[str], summary: Summary) -> np.ndarray:
    """(B,) int8 of the first key that an annotation has."""
    flags: np.ndarray = np.full(len(annotations), UNKNOWN, dtype=np.int8)
    for i, row in enumerate(annotations):
        key = next((key for key in keys if getattr(row, key) is not None), None)
        if key is None:
            continue
        value = getattr(row, key)
        if isinstance(value, str):
            place, value = f'{path}: annotations[{i}].{key}', flag_of_text(text := value)
            if value is None:
                raise AnnotationError(f'{place}: {text!r} must be 1, 0 or -1 (unknown)')
            summary.change('flags that are empty or not written as 1, 0 or -1', 1, place)
        flags[i] = int(value)
    return flags


def export_coco(
    store: AnnotationStore, out: str | Path, *, overwrite: bool = False, progress: Progress = no_progress
) -> None:
    """Writes a COCO JSON file that pycocotools and mmdet's ``CocoDataset`` load, one image or annotation on a line.

    Ids count from 1 in the order of the store. ``iscrowd`` is 1 for group-of boxes. :func:`import_coco` makes the same
    store from the file, except for the order of an image's labels and for boxes without area.

    Raises:
        OSError: A file that may not be replaced.
        AnnotationError: An image-level label whose confidence COCO's lists cannot hold.
    """
    out = Path(out)
    if out.is_dir() or (out.exists() and not overwrite):
        raise FileExistsError(f'{out}: exists already; give --overwrite to replace it, or another --out')
    others = np.setdiff1d(store.image_label_confidence, list(IMAGE_LABEL_KEYS.values()))
    if len(others):
        held = f'confidence {others[0]:g}; COCO files hold 0, 1 and {NOT_EXHAUSTIVE}'
        raise AnnotationError(f'{store.path}: an image-level label has {held}')
    info = {'description': 'Open Images annotations, written by mmoid', HIERARCHY_KEY: store.metadata['hierarchy']}
    names = enumerate(zip(store.class_names, store.label_names), 1)
    categories = [{'id': i, 'name': name, 'freebase_id': mid} for i, (name, mid) in names]
    encode = msgspec.json.encode
    with atomic_write(out) as temporary, open(temporary, 'wb') as stream:
        stream.write(b'{"info": %b,\n"licenses": [],\n' % encode(info))
        stream.write(b'"categories": %b,\n"images": [' % encode(categories))
        for what, count, rows, end in (
            ('images', store.num_images, _exported_images, b'\n],\n"annotations": ['),
            ('annotations', store.num_boxes, _exported_annotations, b'\n]}\n'),
        ):
            for first in range(0, count, EXPORT_CHUNK):
                last = min(count, first + EXPORT_CHUNK)
                stream.write((b',\n' if first else b'\n') + b',\n'.join(map(encode, rows(store, first, last))))
                progress(f'writing {what}', last, count)
            stream.write(end)


def _exported_images(store: AnnotationStore, first: int, last: int) -> Iterator[dict[str, Any]]:
    for image in range(first, last):
        rows = store.labels_of_image(image)
        category, confidence = store.image_label[rows] + 1, store.image_label_confidence[rows]
        yield {
            'id': image + 1,
            'file_name': store.file_name(image),
            'openimages_id': store.image_id(image),
            'width': int(store.width[image]),
            'height': int(store.height[image]),
            **{key: category[confidence == value].tolist() for key, value in IMAGE_LABEL_KEYS.items()},
        }


def _exported_annotations(store: AnnotationStore, first: int, last: int) -> Iterator[dict[str, Any]]:
    rows = slice(first, last)
    image = np.searchsorted(store.box_stop, np.arange(first, last), side='right')
    size = np.stack([store.width[image], store.height[image]], axis=1)
    corner, sides = store.box[rows, :2] * size, (store.box[rows, 2:] - store.box[rows, :2]) * size
    group_of = store.is_group_of[rows]
    columns = {
        'id': np.arange(first, last) + 1,
        'image_id': image + 1,
        'category_id': store.box_label[rows] + 1,
        'bbox': np.hstack([corner, sides]),
        'area': sides[:, 0] * sides[:, 1],
        'iscrowd': (group_of == 1).astype(np.int8),
        'is_group_of': group_of,
    }
    others = {keys[0]: store.flag(name)[rows] for name, keys in FLAG_KEYS.items() if name != 'IsGroupOf'}
    known = zip(*(flag.tolist() for flag in others.values()))
    for values, flags in zip(zip(*(column.tolist() for column in columns.values())), known):
        yield dict(zip(columns, values)) | {key: flag for key, flag in zip(others, flags) if flag >= 0}
