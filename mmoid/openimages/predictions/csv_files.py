"""Predictions of any detector in CSV files, in the two formats in use.

A row for each detection, as the official evaluator takes them::

    ImageID,LabelName,Score,XMin,XMax,YMin,YMax

A row for each image, as the challenge takes them, with ``{Label Confidence XMin YMin XMax YMax}`` for each detection::

    ImageId,PredictionString

Columns may have any order and any case; ``Score`` may be called ``Conf`` or ``Confidence``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from mmoid.openimages.boxes import has_area
from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.image_ids import match_images_once, number_images, require_once
from mmoid.openimages.predictions.ancestors import with_ancestors
from mmoid.openimages.predictions.prediction_store import (
    LEAVE_OUT,
    Detections,
    Predictions,
    PredictionStore,
    check_detections,
)
from mmoid.openimages.ragged import row_lengths, runs_of_rows
from mmoid.openimages.readers.csv_files import (
    COORDINATES,
    TEXT,
    find_column,
    line_of_row,
    open_text,
    read_columns,
    read_header,
    unreadable,
)
from mmoid.openimages.store.summary import Summary
from mmoid.utils.atomic import atomic_write
from mmoid.utils.progress import Progress, no_progress

_BLOCK_BYTES = 8 << 20
"""Read at a time. A row must fit: some 130,000 detections of one image."""

_ROWS_AT_ONCE = 1 << 18
"""Written at a time, about 30 MB."""

DETECTIONS_AT_ONCE = 1 << 17
"""Detections of a submission formatted at a time, about 60 MB."""

DECIMALS = 6
"""Of a coordinate in a submission: a thousandth of a pixel in an image of 1,000 pixels."""

_SCORE = ('Score', 'Conf', 'Confidence')

_Columns: TypeAlias = tuple[pa.ChunkedArray, np.ndarray, pa.DictionaryArray, np.ndarray, np.ndarray]
"""Of R rows: ids (R,), number of detections (R,); of all detections: MIDs (D,), score (D,), box (D, 4)."""


def open_predictions(
    path: str | Path, classes: ClassNames | None = None, other_classes: Literal['error', 'drop'] = 'error'
) -> Predictions:
    """Opens a :class:`PredictionStore` if ``path`` is a folder, else reads a CSV file (:func:`read_predictions`).

    Both are checked (:func:`check_detections`). Scores of a store may be above 1, since some ensembles have such.

    Raises:
        AnnotationError: As :func:`read_predictions`; a folder that is no such store, or has an image twice.
    """
    if not Path(path).is_dir():
        return read_predictions(path, classes, other_classes)
    store = PredictionStore(path)
    number = number_images(pa.chunked_array([store.ids], pa.string()))[1]
    require_once(store.ids, number, path)

    def place_of(k: int) -> str:
        image = _row_of_detection(store.detection_stop, k)
        return f'{path}: image {store.ids[image].as_py()!r}'

    summary = Summary()
    score, kept = check_detections(store.score, store.box, place_of, summary, np.inf)
    if not summary.lines():
        return store
    image = store.image_of_detection()[kept]
    return store.replace(
        detection_stop=np.cumsum(np.bincount(image, minlength=store.num_images)),
        label=store.label[kept],
        score=score[kept],
        box=store.box[kept],
        summary=summary,
    )


def read_predictions(
    path: str | Path, classes: ClassNames | None = None, other_classes: Literal['error', 'drop'] = 'error'
) -> Predictions:
    """Reads a prediction CSV of either format, ``.csv`` or ``.csv.gz``.

    Args:
        path: The file.
        classes: The classes by index; None: those in the file, in order of appearance.
        other_classes: What to do with detections that are not of ``classes``: raise, or leave them out.

    Raises:
        AnnotationError: Neither format, a row that does not parse, a score or box out of range, an unknown class, two
            submission rows of one image.
    """
    if str(path).lower().endswith(('.pkl', '.pickle')):
        raise AnnotationError(f'{path}: is a pickle, which is never read; write a folder with mmoid test --out')
    header = read_header(path)
    _require_predictions(path, header)
    is_submission = find_column(header, 'PredictionString') is not None
    ids, counts, mids, score, box = (_read_strings if is_submission else _read_rows)(path, header)
    stop = np.cumsum(counts)

    def place_of(k: int) -> str:
        row = _row_of_detection(stop, k)
        place = f'{path}:{line_of_row(path, row)}'
        return f'{place}: detection {k - stop[row] + counts[row] + 1}' if is_submission else place

    summary = Summary()
    score, kept = check_detections(score, box, place_of, summary)
    classes = classes or ClassNames(tuple(mids.dictionary.to_pylist()))
    label = classes.find(mids)
    known = label >= 0
    if not known.all():
        k = int(np.argmin(known))
        if other_classes == 'error':
            raise classes.unknown(mids[k].as_py(), place_of(k), LEAVE_OUT)
        summary.drop('of other classes', (~known & kept).sum(), mids[k].as_py())
    distinct, image_of_row, _ = number_images(ids, summary)
    image = np.repeat(image_of_row, counts)
    rows = np.flatnonzero(known & kept)
    rows = rows[np.argsort(image[rows], kind='stable')]
    return Predictions(
        path=Path(path),
        label_names=classes.label_names,
        class_names=classes.display_names,
        ids=distinct,
        detection_stop=np.cumsum(np.bincount(image[rows], minlength=len(distinct))),
        label=label[rows],
        score=score[rows],
        box=box[rows],
        summary=summary,
        lists_images=is_submission,
    )


def write_rows(
    out: str | Path, predictions: Predictions, min_score: float = 0.0, progress: Progress = no_progress
) -> int:
    """Writes a row for each detection, atomically, with the columns above and the display name, ``ClassName``.

    Scores read back as the same float32; coordinates have six decimals. ``out`` ends in ``.csv`` or ``.csv.gz``.
    Scores below ``min_score`` are left out. Progress is in detections. Returns the number of rows.
    """
    x_min, y_min, x_max, y_max = range(4)
    sides = {'XMin': x_min, 'XMax': x_max, 'YMin': y_min, 'YMax': y_max}
    names = pa.array(predictions.label_names), pa.array(predictions.class_names)
    kinds = {'ImageID': pa.string(), 'LabelName': pa.string(), 'Score': pa.float32()}
    kinds |= {**dict.fromkeys(sides, pa.float64()), 'ClassName': pa.string()}
    schema, count, total = pa.schema(kinds.items()), 0, len(predictions.label)
    with atomic_write(out) as temporary:
        compression = 'gzip' if str(out).endswith('.gz') else None
        stream = pa.output_stream(str(temporary), compression=compression)
        with stream, pa_csv.CSVWriter(stream, schema) as writer:
            for first in range(0, total, _ROWS_AT_ONCE):
                rows = np.arange(first, min(first + _ROWS_AT_ONCE, total))
                rows = rows[predictions.score[rows] >= np.float32(min_score)]
                image = np.searchsorted(predictions.detection_stop, rows, side='right')
                label = pa.array(predictions.label[rows])
                box = np.round(predictions.box[rows], 6) + 0.0  # -0.0 would be written with its sign
                columns = [predictions.ids.take(pa.array(image)), names[0].take(label)]
                columns += [pa.array(predictions.score[rows].astype(np.float32))]
                columns += [pa.array(np.ascontiguousarray(box[:, side])) for side in sides.values()]
                writer.write_table(pa.table([*columns, names[1].take(label)], schema=schema))
                count += len(rows)
                progress('writing rows', min(first + _ROWS_AT_ONCE, total), total)
    return count


def read_image_list(path: str | Path, summary: Summary | None = None) -> list[str]:
    """Reads the images of a CSV with a column ``ImageID``, or of a text file with an id in each line.

    Returns:
        Each id once, in the order of the file. The summary counts those that come again.
    """
    header = read_header(path)
    if len(header) == 1 and find_column(header, 'ImageID') is None:
        with open_text(path) as stream:
            ids = stream.read().split('\n')
    else:
        column = _column_of(path, header, 'ImageID')
        ids = read_columns(path, {column: pa.string()})[column].to_pylist()
    ids = [text for name in ids if (text := name.strip())]
    once = list(dict.fromkeys(ids))
    if summary is not None and len(once) < len(ids):
        first = next(name for name, times in Counter(ids).items() if times > 1)
        summary.change('image ids that the list names again, taken once', len(ids) - len(once), first)
    return once


def _column_of(path: str | Path, header: Sequence[str], name: str) -> str:
    """The name of a column as the file spells it."""
    spellings = _SCORE if name == 'Score' else (name,)
    for column in (find_column(header, spelling) for spelling in spellings):
        if column is not None:
            return column
    raise AnnotationError(f'{path}:1: has no column {" or ".join(spellings)}; it has {", ".join(header)}')


def _require_predictions(path: str | Path, header: Sequence[str]) -> None:
    """Raises for files of other kinds that are easily given by mistake."""
    expected = 'expected a CSV with ImageID,LabelName,Score,XMin,XMax,YMin,YMax or ImageId,PredictionString'
    if header[0].lstrip().startswith(('[', '{')):
        raise AnnotationError(f'{path}:1: is JSON, such as COCO results, which are not read; {expected}')
    of_annotations = any(find_column(header, name) for name in ('Source', 'IsGroupOf'))
    if of_annotations and find_column(header, 'Score') is None:
        raise AnnotationError(f'{path}:1: has the columns of annotations, {", ".join(header)}; {expected}')


def _read_rows(path: str | Path, header: Sequence[str]) -> _Columns:
    image, label, score, *sides = (
        _column_of(path, header, name) for name in ('ImageID', 'LabelName', 'Score', *COORDINATES)
    )
    table = read_columns(path, {image: pa.string(), label: TEXT, **dict.fromkeys((score, *sides), pa.float64())})
    box = np.stack([table[name].to_numpy() for name in sides], axis=1)
    mids = pa.chunked_array([pa.array([], TEXT), *table[label].chunks]).combine_chunks()
    return table[image], np.ones(len(table), dtype=np.int64), mids, table[score].to_numpy(), box


def _read_strings(path: str | Path, header: Sequence[str]) -> _Columns:
    """Reads and parses a file block by block, so that its text never lies in memory as a whole."""
    names = [_column_of(path, header, name) for name in ('ImageID', 'PredictionString')]
    types = dict.fromkeys(names, pa.string())
    read_options = pa_csv.ReadOptions(block_size=_BLOCK_BYTES)
    convert_options = pa_csv.ConvertOptions(column_types=types, include_columns=names)
    empty = (pa.array([], pa.string()), np.empty(0, np.int64), pa.array([], TEXT), np.empty(0), np.empty((0, 4)))
    parts = [empty]
    first = 0
    try:
        for batch in pa_csv.open_csv(path, read_options, convert_options=convert_options):
            parts.append((batch[names[0]], *_parse_strings(path, first, batch[names[1]])))
            first += len(batch)
    except (OSError, pa.ArrowInvalid) as error:
        raise unreadable(path, types, error) from error
    ids, counts, mids, score, box = zip(*parts)
    all_ids = pa.chunked_array(ids)
    number = number_images(all_ids)[1]
    repeated = number != np.arange(len(number))
    if repeated.any():
        row = int(np.argmax(repeated))
        line, before = line_of_row(path, row), line_of_row(path, int(number[row]))
        raise AnnotationError(f'{path}:{line}: image {all_ids[row].as_py()!r} is already on line {before}')
    all_mids = pa.chunked_array(mids).combine_chunks()
    return all_ids, np.concatenate(counts), all_mids, np.concatenate(score), np.concatenate(box)


def _parse_strings(
    path: str | Path, first: int, texts: pa.Array
) -> tuple[np.ndarray, pa.DictionaryArray, np.ndarray, np.ndarray]:
    """Counts (n,), MIDs (d,), scores (d,) and boxes (d, 4) of n PredictionStrings, counted from row ``first``."""
    texts = pc.ascii_trim_whitespace(texts)
    # '' would split into one empty word, null splits into none.
    words = pc.ascii_split_whitespace(pc.if_else(pc.equal(texts, ''), pa.scalar(None, pa.string()), texts))
    lengths = pc.list_value_length(words).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if (lengths % 6).any():
        row = int(np.argmax(lengths % 6 > 0))
        raise AnnotationError(
            f'{path}:{line_of_row(path, first + row)}: PredictionString has {lengths[row]} values, not a multiple of '
            '6; expected {Label Confidence XMin YMin XMax YMax} for each detection'
        )
    counts = lengths // 6
    flat = words.flatten()
    start = np.arange(0, len(flat), 6)
    numbers: np.ndarray = np.empty((len(start), 5))
    for k, name in enumerate(('Confidence', *COORDINATES)):
        column = flat.take(pa.array(start + 1 + k))
        try:
            numbers[:, k] = pc.cast(column, pa.float64())
        except pa.ArrowInvalid:
            detection, text = next((i, text) for i, text in enumerate(column.to_pylist()) if not _is_number(text))
            row = _row_of_detection(np.cumsum(counts), detection)
            place = f'{path}:{line_of_row(path, first + row)}: detection {detection - counts[:row].sum() + 1}'
            raise AnnotationError(f'{place}: {name} = {text!r} is not a number') from None
    return counts, flat.take(pa.array(start)).dictionary_encode(), numbers[:, 0], numbers[:, 1:]


def _row_of_detection(stop: np.ndarray, detection: int) -> int:
    return int(np.searchsorted(stop, detection, side='right'))


def _is_number(text: str) -> bool:
    try:
        pa.scalar(text).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def write_submission(
    out: str | Path,
    predictions: Predictions,
    image_ids: Sequence[str] | None = None,
    *,
    min_score: float = 0.0,
    max_per_image: int | None = None,
    hierarchy: ClassHierarchy | None = None,
    ancestor_nms: float | None = 0.5,
    missing: Literal['empty', 'error'] = 'empty',
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Writes a submission, atomically.

    Scores read back as the same float32. Coordinates are clipped to [0, 1] and rounded to :data:`DECIMALS` decimals.
    Boxes without area are left out, as the metric leaves them out.

    Args:
        out: The file, ``.csv`` or ``.csv.gz``.
        predictions: Detections.
        image_ids: Images of the file, in this order, those without detections included; None: those of the predictions.
        min_score: Detections below it are left out.
        max_per_image: Best-scored detections of an image that are kept, ancestors counted; None: all.
        hierarchy: Over the classes of the predictions and then others (:func:`hierarchy_with_ancestors`): adds the
            ancestors of every detection, since the official evaluator does not. None: detections as predicted.
        ancestor_nms: IoU threshold of the NMS after that, as in :func:`with_ancestors`; None: no NMS.
        missing: Images that the predictions lack: write them without detections, or raise.
        progress: Progress in images.

    Returns:
        Counts of what was written and of what was left out, by description.

    Raises:
        AnnotationError: An image that occurs twice or is ``missing``, an image id or MID with a separator of the
            format, no image or no detection to write.
        ValueError: ``max_per_image`` below 1.
    """
    if max_per_image is not None and max_per_image < 1:
        raise ValueError(f'max_per_image must be at least 1, got {max_per_image}')
    label_names = predictions.label_names if hierarchy is None else hierarchy.label_names
    ids = predictions.ids if image_ids is None else pa.array(image_ids, pa.string())
    names = pa.array(label_names, pa.string())
    require_plain('image id', ids)
    require_plain('class', names)
    if not len(ids) or not len(predictions.ids):
        raise AnnotationError(f'{"the list of images" if len(predictions.ids) else predictions.path}: holds no image')
    image = match_images_once(ids, predictions.ids, 'the list of images')
    known = int((image >= 0).sum())
    if not known:
        raise AnnotationError(
            f'{predictions.path}: has none of the {len(ids)} images of the list, first {ids[0].as_py()!r}; it has '
            f'{predictions.num_images} others, first {predictions.ids[0].as_py()!r}'
        )
    if missing == 'error' and known < len(ids):
        raise AnnotationError(
            f'{predictions.path}: does not have {len(ids) - known} of the {len(ids)} images, first '
            f'{ids[int(np.argmin(image))].as_py()!r}; run the model on all of them, or use --missing-images empty'
        )
    counts = Counter({'images': len(ids), 'images without predictions': len(ids) - known})
    counts['images of the predictions that are not in the list'] = predictions.num_images - known
    counts.update(predictions.counts())
    with atomic_write(out) as temporary:
        compression = 'gzip' if str(out).endswith('.gz') else None
        with pa.output_stream(str(temporary), compression=compression) as stream:
            stream.write(b'ImageId,PredictionString\n')
            lengths = row_lengths(predictions.detection_stop, image)
            for first, last in runs_of_rows(lengths, DETECTIONS_AT_ONCE):
                found = _valid(predictions.detections(image[first:last]), min_score, counts, ids.slice(first))
                if hierarchy is not None:
                    own, found = found, with_ancestors(hierarchy, found, ancestor_nms)
                    counts['added ancestors, less those that NMS removes'] += len(found.score) - len(own.score)
                best = found.best_first(max_per_image)
                if max_per_image is not None:
                    counts['detections above the number per image'] += len(found.score) - len(best.score)
                per_image = np.bincount(best.image, minlength=last - first)
                counts['detections'] += len(best.score)
                counts['images without detections'] += int((per_image == 0).sum())
                stream.write(_format(ids.slice(first, last - first), names, per_image, best))
                progress('writing images', last, len(ids))
        if not counts['detections']:
            raise predictions.without_detections('no detection is left to write', counts)
    return dict(counts)


def _valid(found: Detections, min_score: float, counts: Counter[str], ids: pa.Array) -> Detections:
    """The detections that can be written, with rounded boxes inside the image. Counts the others, naming the first."""
    score, inside = found.score.astype(np.float32), np.clip(found.box, 0, 1)
    box = np.round(inside, DECIMALS) + 0.0  # -0.0 would be written with its sign
    scored, solid = score >= np.float32(min_score), has_area(box)
    clipped = (inside != found.box).any(axis=1)
    counts['detections below the score'] += int((~scored).sum())
    for reason, rows in (
        ('boxes without area', scored & ~solid),
        ('boxes partly outside the image, clipped', scored & solid & clipped),
    ):
        if rows.any():
            place = f' (first: image {ids[int(found.image[np.argmax(rows)])].as_py()!r})'
            key = next((key for key in counts if key.startswith(reason)), reason + place)
            counts[key] += int(rows.sum())
    return Detections(found.image, found.label, score, box).take(scored & solid)


def _format(ids: pa.Array, names: pa.Array, per_image: np.ndarray, found: Detections) -> pa.Buffer:
    """The lines as bytes. Every number is the shortest text that reads back as the same number."""
    numbers = [pc.cast(pa.array(np.ascontiguousarray(column)), pa.string()) for column in (found.score, *found.box.T)]
    detections = pc.binary_join_element_wise(names.take(pa.array(found.label)), *numbers, ' ')
    offsets = pa.array(np.append(0, np.cumsum(per_image)).astype(np.int32))
    texts = pc.binary_join(pa.ListArray.from_arrays(offsets, detections), ' ')
    lines = pc.binary_join_element_wise(ids, texts, ',')
    return pa.py_buffer(''.join(f'{line}\n' for line in lines.to_pylist()).encode())


def require_plain(what: str, texts: pa.Array) -> None:
    """Raises an AnnotationError for a text that the format cannot hold."""
    unfit = pc.match_substring_regex(texts, r'[\s,"]|^$')
    if pc.any(unfit).as_py():
        text = texts.filter(unfit)[0].as_py()
        raise AnnotationError(f'{what} {text!r}: must not be empty or contain a space, comma or quote')
