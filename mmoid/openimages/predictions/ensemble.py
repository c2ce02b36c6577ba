"""Predictions of several models -> one PredictionStore, image by image in a process pool, by ensemble-boxes.

Examples:
    >>> sets = match_sets([open_predictions(path) for path in paths], weights=[2, 1, 1])
    >>> run_ensemble(sets, Fusion(method='wbf'), out)
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from mmoid.openimages.boxes import has_area
from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.image_ids import number_images, require_once
from mmoid.openimages.predictions.ancestors import hierarchy_with_ancestors, with_ancestors
from mmoid.openimages.predictions.prediction_store import Detections, Predictions
from mmoid.openimages.predictions.shards import Bound, open_shards
from mmoid.openimages.readers.csv_files import open_text
from mmoid.utils.processes import end_with_parent
from mmoid.utils.progress import Progress, no_progress

METHODS = ('nms', 'soft_nms', 'nmw', 'wbf')
CONFIDENCE_TYPES = ('avg', 'max', 'box_and_model_avg', 'absent_model_aware_avg')
SOFT_NMS_DECAYS = ('linear', 'gaussian')

IMAGES_PER_SHARD = 128
"""Images that a worker fuses at a time, a few seconds' work. A killed run loses at most two shards of each worker."""

DETECTIONS_AT_ONCE = 1 << 20
"""Detections that are counted at a time. Bounds the working memory."""


@dataclass(frozen=True)
class Fusion:
    """Settings of :func:`fuse`. Defaults are those of ensemble-boxes.

    Attributes:
        method: ``nms``, ``soft_nms``, ``nmw`` (non-maximum weighted) or ``wbf`` (weighted boxes fusion).
        iou_threshold: Boxes of a class that overlap more are one object.
        skip_score: Detections below it are left out first.
        confidence: ``conf_type`` of WBF, the score of a fused box. With ``avg`` and ``max``, overlapping detections of
            one model count like those of several; with ``box_and_model_avg`` and ``absent_model_aware_avg`` not.
        allows_overflow: For WBF with ``avg``: more boxes than models raise a score above 1.
        sigma: Of the gaussian decay of soft-NMS.
        decay: Of soft-NMS.
        least_score: Soft-NMS drops detections that decay to this score or below.
        max_per_image: Best-scored fused detections of an image that are kept; None: all.

    Raises:
        ValueError: A setting out of range.
        ImportError: ensemble-boxes is not installed.
    """

    method: Literal['nms', 'soft_nms', 'nmw', 'wbf'] = 'wbf'
    iou_threshold: float = 0.55
    skip_score: float = 0.0
    confidence: Literal['avg', 'max', 'box_and_model_avg', 'absent_model_aware_avg'] = 'avg'
    allows_overflow: bool = False
    sigma: float = 0.5
    decay: Literal['linear', 'gaussian'] = 'gaussian'
    least_score: float = 0.001
    max_per_image: int | None = None

    def __post_init__(self) -> None:
        for name, known in (('method', METHODS), ('confidence', CONFIDENCE_TYPES), ('decay', SOFT_NMS_DECAYS)):
            if getattr(self, name) not in known:
                raise ValueError(f'{name} must be one of {", ".join(known)}, got {getattr(self, name)!r}')
        if not 0 < self.iou_threshold < 1:
            raise ValueError(f'iou_threshold must be between 0 and 1, got {self.iou_threshold}')
        if not self.sigma > 0:
            raise ValueError(f'sigma must be above 0, got {self.sigma}')
        if self.max_per_image is not None and self.max_per_image < 1:
            raise ValueError(f'max_per_image must be at least 1, got {self.max_per_image}')
        try:
            import_module('ensemble_boxes')
        except ImportError as error:
            raise ImportError(f"fusing needs ensemble-boxes: pip install 'mmoid[ensemble]' ({error})") from error

    def usable(self, score: np.ndarray, box: np.ndarray) -> np.ndarray:
        """(D,) bool: detections that take part: area in the image, a score above 0 and not below ``skip_score``."""
        used: np.ndarray = has_area(np.clip(box, 0, 1)) & (score > 0) & (score >= score.dtype.type(self.skip_score))
        return used


def fuse(
    fusion: Fusion,
    boxes: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fuses the detections of M models on one image. Boxes of different classes are independent.

    Args:
        fusion: Settings; ``max_per_image`` is for the caller.
        boxes: M arrays (n_m, 4) float64 in [0, 1], all of them usable (:meth:`Fusion.usable`).
        scores: M arrays (n_m,).
        labels: M arrays (n_m,) of class indices.
        weights: M weights above 0. None: scores are not scaled. NMS and soft-NMS scale scores by weight / sum of
            weights, NMW by weight / greatest weight.

    Returns:
        (n, 4) boxes, (n,) scores, both float64, and (n,) int64 class indices, in no particular order.
    """
    if not sum(map(len, scores)):
        return np.empty((0, 4)), np.empty(0), np.empty(0, dtype=np.int64)
    import ensemble_boxes  # half a second

    scores = [score.astype(np.float64) for score in scores]
    options: dict[str, Any] = dict(weights=weights, iou_thr=fusion.iou_threshold)
    if fusion.method == 'soft_nms':
        box, score, label = _soft_nms(fusion, boxes, scores, labels, weights)
    elif fusion.method == 'nms':
        box, score, label = ensemble_boxes.nms(boxes, scores, labels, **options)
    else:
        # These loop over single boxes: plain lists take half the time of arrays.
        lists = [[part.tolist() for part in parts] for parts in (boxes, scores, labels)]
        if fusion.method == 'nmw':
            found = ensemble_boxes.non_maximum_weighted(*lists, **options)
        else:
            options |= dict(conf_type=fusion.confidence, allows_overflow=fusion.allows_overflow)
            found = ensemble_boxes.weighted_boxes_fusion(*lists, **options)
        box, score, label = (np.asarray(column, dtype=np.float64) for column in found)
    # WBF gives more than 1 for overlapping boxes of a model with a high weight.
    return box, score if fusion.allows_overflow else np.minimum(score, 1), label.astype(np.int64)


def _soft_nms(
    fusion: Fusion,
    boxes: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    weights: Sequence[float] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Soft-NMS with decayed scores. ``ensemble_boxes.soft_nms`` returns the original ones, so duplicates rank high."""
    from ensemble_boxes.ensemble_boxes_nms import cpu_soft_nms_float

    if weights is not None:
        scores = [score * weight / sum(weights) for score, weight in zip(scores, weights)]
    box, score, label = np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels)
    method = 1 + SOFT_NMS_DECAYS.index(fusion.decay)
    kept, decayed = [], []
    for one in np.unique(label):
        rows = np.flatnonzero(label == one)
        values = score[rows]  # decayed in place
        found = cpu_soft_nms_float(box[rows], values, fusion.iou_threshold, fusion.sigma, fusion.least_score, method)
        kept.append(rows[found])
        decayed.append(values[values > fusion.least_score])
    row = np.concatenate(kept)
    return box[row], np.concatenate(decayed), label[row]


@dataclass(frozen=True, eq=False)
class MatchedSets:
    """M sets of predictions under common image and class indices."""

    sets: Sequence[Predictions]  # M sets
    classes: ClassNames  # the C classes of the result
    label: tuple[np.ndarray, ...]  # M arrays (K_m,) int64: class of the result for each class of the set
    weights: np.ndarray  # (M, C) float64 weight of each set; 0: no vote
    scales: bool  # whether weights were given. If not, scores are not scaled
    hierarchy: ClassHierarchy | None  # over the C classes, for ``expand``
    expand: Literal['before', 'after'] | None  # whether ancestors are added, before or after the fusion
    image_ids: tuple[str, ...]  # N ids of the result
    image: np.ndarray  # (M, N) int64 index of an image in each set; -1: not there
    was_run: np.ndarray  # (M, N) bool: whether the model was run on the image. If not, it has no vote there


def read_class_weights(path: str | Path) -> dict[str, list[float]]:
    """Reads a CSV ``LabelName,<first set>,<second set>,...`` or a JSON object ``{LabelName: [weights]}``.

    Such a table can be made from the AP of each model (``evaluate_predictions.py --table``).

    Raises:
        AnnotationError: A file that cannot be parsed, a class that occurs twice.
    """
    try:
        with open_text(path) as stream:
            if str(path).endswith('.json'):
                if not isinstance(table := json.load(stream), dict):
                    raise ValueError('expected an object, {LabelName: [weights]}')
                rows = list(table.items())
            else:
                rows = [(row[0], row[1:]) for row in csv.reader(stream) if row and row[0] != 'LabelName']
        weights = {mid: [float(value) for value in values] for mid, values in rows}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise AnnotationError(f'{path}: cannot be read as class weights ({error})') from error
    if len(weights) < len(rows):
        raise AnnotationError(f'{path}: a class occurs twice')
    return weights


def match_sets(
    sets: Sequence[Predictions],
    *,
    weights: Sequence[float] | None = None,
    class_weights: Mapping[str, Sequence[float]] | None = None,
    missing: Literal['error', 'drop', 'keep'] = 'error',
    hierarchy: dict | None = None,
    expand: Literal['before', 'after'] | None = None,
) -> MatchedSets:
    """Matches images by ImageID and classes by MID or display name, whatever their order in each set.

    The result has the images and classes of the first set in their order, then those that only later sets have, then
    the ancestors that no set has. A CSV with a row for each detection does not list images without detections: its
    model counts as run on all images.

    Args:
        sets: At least one.
        weights: One weight above 0 for each set; None: scores are not scaled.
        class_weights: MID -> one weight >= 0 for each set, in place of ``weights`` for this class. 0: no vote.
        missing: What to do with images that the model of a set was not run on: raise, leave them out, or fuse the
            others.
        hierarchy: The nested hierarchy, for ``expand``.
        expand: Adds ancestors with NMS at the fusion's IoU threshold (:func:`with_ancestors`). ``before``: to each
            model's detections, so that a model that says Apple votes for Fruit too. ``after``: to the result.

    Raises:
        AnnotationError: Images missing, no image in common, a weight for an unknown class.
        ValueError: Weights out of range, no hierarchy for ``expand``.
    """
    names = {mid: name for one in sets[::-1] for mid, name in zip(one.label_names, one.class_names)}
    mids = tuple(dict.fromkeys(mid for one in sets for mid in one.label_names))
    display = {name for mid, name in names.items() if name != mid}  # a set may have such a name in place of the MID
    mids = tuple(mid for mid in mids if names[mid] != mid or mid not in display)
    graph = None
    if expand is not None:
        if hierarchy is None:
            raise ValueError('expand: needs the hierarchy of the classes (--hierarchy or --store)')
        graph = hierarchy_with_ancestors(hierarchy, mids)
        mids = graph.label_names
    classes = ClassNames(mids, tuple(names.get(mid, mid) for mid in mids), 'the sets')
    label = tuple(classes.indices(one.label_names, str(one.path)) for one in sets)
    known = np.zeros((len(sets), len(mids)), dtype=bool)
    for row, own in zip(known, label):
        row[own] = True
        if graph is not None and expand == 'before':
            row |= graph.ancestor_matrix[own].any(axis=0)
    count = len(sets)
    general = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if general.shape != (count,) or not (np.isfinite(general) & (general > 0)).all():
        raise ValueError(f'weights: expects {count} values above 0, one for each set, got {general.tolist()}')
    matrix = np.where(known, general[:, None], 0.0)
    for mid, values in (class_weights or {}).items():
        column = np.asarray(values, dtype=np.float64)
        if column.shape != (count,) or not (np.isfinite(column) & (column >= 0)).all() or not column.any():
            expected = f'{count} values of at least 0, one for each set, not all 0'
            raise ValueError(f'class_weights[{mid!r}]: expects {expected}, got {column.tolist()}')
        own = classes.indices([mid], 'class_weights')[0]
        matrix[:, own] = np.where(known[:, own], column, 0.0)
    unheard = known.any(axis=0) & ~matrix.any(axis=0)
    if unheard.any():
        mid = mids[int(np.argmax(unheard))]
        raise ValueError(f'class_weights[{mid!r}]: is above 0 only for sets that do not have this class')
    scales = weights is not None or class_weights is not None
    return MatchedSets(sets, classes, label, matrix, scales, graph, expand, *_match_images(sets, missing))


def _match_images(sets: Sequence[Predictions], missing: str) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """``image_ids``, ``image`` and ``was_run``."""
    ids, number, _ = number_images(pa.chunked_array([one.ids for one in sets], pa.string()))
    image: np.ndarray = np.full((len(sets), len(ids)), -1, dtype=np.int64)
    stops = np.cumsum([one.num_images for one in sets])
    for row, one, own in zip(image, sets, np.split(number, stops[:-1])):
        row[own] = np.arange(len(own))
        require_once(one.ids, own, one.path)
    found = image >= 0
    alone = found.any(axis=1) & ~(found & (found.sum(axis=0) > 1)).any(axis=1)
    if alone.any() and found.any(axis=1).sum() > 1:
        one = sets[int(np.argmax(alone))]
        raise AnnotationError(
            f'{one.path}: has no image in common with the other sets, first {one.ids[0].as_py()!r}; '
            'all models must be run on the same images'
        )
    was_run = found | np.array([[not one.lists_images] for one in sets])
    shared = was_run.all(axis=0)
    if missing == 'error' and not shared.all():
        k = int(np.argmin(shared))
        without = sets[int(np.argmin(was_run[:, k]))].path
        raise AnnotationError(
            f'{without}: does not have image {ids[k].as_py()!r}, which another set has ({(~shared).sum()} of '
            f'{len(ids)} images are not in all sets); run every model on all images, or choose --missing drop or '
            '--missing keep'
        )
    if missing == 'drop':
        ids, image, was_run = ids.filter(pa.array(shared)), image[:, shared], was_run[:, shared]
    return tuple(ids.to_pylist()), image, was_run


def run_ensemble(
    sets: MatchedSets,
    fusion: Fusion,
    out: str | Path,
    *,
    num_workers: int | None = None,
    overwrite: bool = False,
    restart: bool = False,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Fuses all images into a PredictionStore.

    A killed run resumes when it is started again with the same sets and settings (:func:`open_shards`). Neither that
    nor the number of workers changes a byte of the result.

    ``num_workers`` are processes; None: the number of cores. ``restart`` removes the shards of an earlier run first.
    Progress is in images. Returns counts by description.

    Raises:
        FileExistsError: ``out`` exists.
        AnnotationError: No image or no detection to fuse; there are shards of another ensemble.
        ChildProcessError: A worker was killed.
    """
    num_images, classes = len(sets.image_ids), sets.classes
    counts = {'images': num_images, **_count_left_out(sets, fusion)}
    shards = open_shards(
        out,
        _plan(sets, fusion),
        run='an ensemble',
        num_images=num_images,
        images_per_shard=IMAGES_PER_SHARD,
        overwrite=overwrite,
        restart=restart,
    )
    finished = shards.done()
    counts['images done by an earlier run'] = done = sum(last - first for first, last in finished)
    progress('fusing images', done, num_images)
    todo = sorted(set(shards.bounds) - set(finished))
    try:
        for (first, last), fused in _fuse_shards(sets, fusion, todo, num_workers or os.cpu_count() or 1):
            shards.write(
                (first, last),
                image_ids=sets.image_ids[first:last],
                detections_per_image=np.bincount(fused.image, minlength=last - first),
                label=fused.label,
                score=fused.score,
                box=fused.box,
                label_names=classes.label_names,
                class_names=classes.display_names,
            )
            done += last - first
            progress('fusing images', done, num_images)
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f'{shards.folder}: a worker was killed, probably by the out-of-memory killer (check dmesg); the same '
            'command resumes from here, with fewer workers (--workers) if need be'
        ) from error
    counts['detections fused'] = shards.join(classes.label_names, classes.display_names, overwrite)
    return counts


def _count_left_out(sets: MatchedSets, fusion: Fusion) -> dict[str, int]:
    """Counts what does not take part, by description."""
    counts: dict[str, int] = {}
    for one, image in zip(sets.sets, sets.image):
        usable = clipped = 0
        for first in range(0, len(one.score), DETECTIONS_AT_ONCE):
            box = one.box[first : first + DETECTIONS_AT_ONCE]
            used = fusion.usable(one.score[first : first + DETECTIONS_AT_ONCE], box)
            usable += int(used.sum())
            clipped += int((used & ((box < 0) | (box > 1)).any(axis=1)).sum())
        own = {
            **one.counts(),
            'left out: score 0 or below --skip-score, or outside the image': len(one.score) - usable,
            'boxes partly outside the image, clipped': clipped,
            'left out: images that are not in all sets': one.num_images - int((image >= 0).sum()),
            'images without a row, taken as without detections': 0 if one.lists_images else int((image < 0).sum()),
        }
        if sets.image_ids and not usable:
            raise one.without_detections('no detection takes part', own)
        counts |= {f'{one.path}: {reason}': count for reason, count in own.items() if count}
    if not sets.image_ids:
        reasons = '; '.join(f'{reason}: {count}' for reason, count in counts.items()) or 'all sets are empty'
        raise AnnotationError(f'{sets.sets[0].path} and the other sets: no image is in all sets ({reasons})')
    return counts


def _plan(sets: MatchedSets, fusion: Fusion) -> dict[str, Any]:
    """Everything that the result depends on."""
    files = [one.path / 'detections.arrow' if one.path.is_dir() else one.path for one in sets.sets]
    ancestors = None if sets.hierarchy is None else sets.hierarchy.ancestor_matrix.tolist()
    votes = [sets.classes.label_names, sets.weights.tolist(), sets.scales, sets.expand, ancestors]
    matched = json.dumps([votes, sets.image_ids, sets.image.tolist(), sets.was_run.tolist()])
    return {
        'sets': [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files],
        'images, classes or weights': hashlib.sha256(matched.encode()).hexdigest(),
        'fusion': asdict(fusion),
    }


def _fuse_shards(
    sets: MatchedSets, fusion: Fusion, bounds: Sequence[Bound], num_workers: int
) -> Iterator[tuple[Bound, Detections]]:
    """Fuses shards in processes. Yields each one when it is done, in any order."""
    num_workers = min(num_workers, len(bounds))
    if num_workers <= 1:
        yield from ((bound, fuse_images(*_arguments(sets, fusion, bound))) for bound in bounds)
        return
    # Not fork: the caller may have threads (Arrow's pool), which do not survive one.
    with ProcessPoolExecutor(num_workers, get_context('spawn'), end_with_parent) as pool:
        running: dict[Future[Detections], Bound] = {}
        try:
            for bound in bounds:
                running[pool.submit(fuse_images, *_arguments(sets, fusion, bound))] = bound
                if len(running) >= 2 * num_workers:  # the detections of these lie in memory
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            for future in as_completed(running):
                yield running[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _arguments(sets: MatchedSets, fusion: Fusion, bound: Bound) -> tuple[Any, ...]:
    """Of :func:`fuse_images` for a shard; boxes are clipped to the image."""
    images = slice(*bound)
    found = []
    for one, image, label in zip(sets.sets, sets.image, sets.label):
        own = one.detections(image[images])
        own = own.take(fusion.usable(own.score, own.box))
        found.append(own._replace(label=label[own.label], box=np.clip(own.box, 0, 1)))
    return fusion, found, sets.was_run[:, images], sets.weights, sets.scales, sets.hierarchy, sets.expand


def fuse_images(
    fusion: Fusion,
    found: Sequence[Detections],
    was_run: np.ndarray,
    weights: np.ndarray,
    scales: bool,
    hierarchy: ClassHierarchy | None = None,
    expand: Literal['before', 'after'] | None = None,
) -> Detections:
    """Fuses the detections of M models on n images. Returns them best first.

    Args:
        fusion: Settings.
        found: Usable detections of each model (:meth:`Fusion.usable`).
        was_run: (M, n) bool: which models were run on which image.
        weights: (M, C) weight of each model; 0: no vote.
        scales: Whether the weights scale scores.
        hierarchy: Over the C classes, for ``expand``.
        expand: Whether ancestors are added, before or after the fusion.
    """
    if hierarchy is not None and expand == 'before':
        found = [with_ancestors(hierarchy, one, fusion.iou_threshold) for one in found]
    # Classes with the same weights are fused in one call: for NMS, five times as fast as one call for each class.
    weights, group_of_class = np.unique(weights, axis=1, return_inverse=True)
    parts = [Detections(np.empty(0, int), np.empty(0, int), np.empty(0), np.empty((0, 4)))]
    for image, was_run_here in enumerate(was_run.T):
        own = [one.take(slice(*np.searchsorted(one.image, (image, image + 1)))) for one in found]
        groups = [group_of_class.reshape(-1)[one.label] for one in own]
        for group in np.unique(np.concatenate(groups)):
            weight = weights[:, group]
            voters = np.flatnonzero(was_run_here & (weight > 0))
            chosen = [own[m].take(groups[m] == group) for m in voters]
            columns = ([one.box for one in chosen], [one.score for one in chosen], [one.label for one in chosen])
            box, score, label = fuse(fusion, *columns, weight[voters].tolist() if scales else None)
            parts.append(Detections(np.full(len(score), image), label, score, box))
    fused = Detections(*map(np.concatenate, zip(*parts)))
    if hierarchy is not None and expand == 'after':
        fused = with_ancestors(hierarchy, fused, fusion.iou_threshold)
    return fused.best_first(fusion.max_per_image)
