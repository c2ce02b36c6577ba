"""Predictions -> the challenge's submission CSV, ``ImageId,PredictionString``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmoid.openimages.boxes import has_area
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.image_ids import match_images_once
from mmoid.openimages.predictions.ancestors import with_ancestors
from mmoid.openimages.predictions.prediction_store import Detections, Predictions
from mmoid.openimages.ragged import row_lengths, runs_of_rows
from mmoid.utils.atomic import atomic_write
from mmoid.utils.progress import Progress, no_progress

DETECTIONS_AT_ONCE = 1 << 17
"""Detections formatted at a time, about 60 MB."""

DECIMALS = 6
"""Of a coordinate: a thousandth of a pixel in an image of 1,000 pixels."""


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
    counts.update({f'left out: {reason}': count for reason, count in predictions.left_out.items()})
    counts.update(predictions.changed)
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
