"""Predictions of several models -> one PredictionStore, image by image in a process pool.

Example:
    >>> sets = match_sets([open_predictions(path) for path in paths], weights=[2, 1, 1])
    >>> run_ensemble(sets, Fusion(method='wbf'), out)
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.image_ids import number_images
from mmoid.openimages.predictions.ancestors import add_ancestors, hierarchy_with_ancestors
from mmoid.openimages.predictions.fusion import Fusion, fuse
from mmoid.openimages.predictions.prediction_store import Predictions
from mmoid.openimages.predictions.shards import Bound, PredictionShards, open_shards
from mmoid.openimages.ragged import gather_rows
from mmoid.openimages.readers.csv_files import open_text
from mmoid.utils.processes import end_with_parent
from mmoid.utils.progress import Progress, no_progress

IMAGES_PER_SHARD = 128
"""What each worker of a killed run loses at most, a few seconds' work."""


@dataclass(frozen=True, eq=False)
class Votes:
    """Who votes for what, in all images.

    Attributes:
        classes: The C classes of the result.
        weights: (M, C) float64 of each set; 0: no vote.
        scales: Whether weights were given; without them scores are not scaled.
        hierarchy: Over the classes of the result, to add ancestors; None: without.
        expand: When ancestors are added: to the detections of each model, or to the result.
    """

    classes: ClassNames
    weights: np.ndarray
    scales: bool
    hierarchy: ClassHierarchy | None
    expand: Literal['before', 'after'] | None


@dataclass(frozen=True, eq=False)
class MatchedSets:
    """M sets of predictions under common image and class indices.

    Attributes:
        sets: M sets.
        votes: Classes and weights.
        image_ids: N ids of the result.
        image: (M, N) int64 index of an image in each set; -1: not there.
        was_run: (M, N) bool: whether the model was run on the image. If not, it has no vote there.
        label: M arrays (K_m,) int64: class of the result for each class of the set.
    """

    sets: Sequence[Predictions]
    votes: Votes
    image_ids: tuple[str, ...]
    image: np.ndarray
    was_run: np.ndarray
    label: tuple[np.ndarray, ...]


def read_class_weights(path: str | Path) -> dict[str, list[float]]:
    """Reads a CSV ``LabelName,<first set>,<second set>,...`` or a JSON object ``{LabelName: [weights]}``.

    Such a table can be made from the AP of each model (``evaluate_predictions.py --table``).

    Raises:
        AnnotationError: A file that cannot be parsed, a class that occurs twice.
    """
    try:
        with open_text(path) as stream:
            if str(path).endswith('.json'):
                rows = list(json.load(stream).items())
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
    """Matches images by ImageID and classes by MID, whatever their order in each set.

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
        expand: Adds ancestors with NMS at the fusion's IoU threshold (:func:`add_ancestors`). ``before``: to each
            model's detections, so that a model that says Apple votes for Fruit too. ``after``: to the result.

    Raises:
        AnnotationError: Images missing, no image in common, a weight for an unknown class.
        ValueError: Weights out of range, no hierarchy for ``expand``.
    """
    names = {mid: name for one in sets[::-1] for mid, name in zip(one.label_names, one.class_names)}
    mids = tuple(dict.fromkeys(mid for one in sets for mid in one.label_names))
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
        if graph is not None:
            row |= graph.ancestor_matrix[own].any(axis=0)
    weight = np.where(known, _weight_matrix(len(sets), classes, weights, class_weights), 0.0)
    if not weight.any(axis=0).all():
        mid = mids[int(np.argmin(weight.any(axis=0)))]
        raise ValueError(f'class_weights[{mid!r}]: is above 0 only for sets that do not have this class')
    scales = weights is not None or class_weights is not None
    return MatchedSets(sets, Votes(classes, weight, scales, graph, expand), *_match_images(sets, missing), label)


def _match_images(sets: Sequence[Predictions], missing: str) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    ids, number, _ = number_images(pa.chunked_array([one.ids for one in sets], pa.string()))
    image: np.ndarray = np.full((len(sets), len(ids)), -1, dtype=np.int64)
    stops = np.cumsum([one.num_images for one in sets])
    for row, one, own in zip(image, sets, np.split(number, stops[:-1])):
        row[own] = np.arange(len(own))
        if (row[own] != np.arange(len(own))).any():
            k = int(own[np.argmax(row[own] != np.arange(len(own)))])
            raise AnnotationError(f'{one.path}: has image {ids[k].as_py()!r} more than once')
    found = image >= 0
    shared_with_others = (found & (found.sum(axis=0) > 1)).any(axis=1)
    for one, is_shared in zip(sets, shared_with_others):
        if one.num_images and not is_shared and sum(other.num_images > 0 for other in sets) > 1:
            raise AnnotationError(
                f'{one.path}: has no image in common with the other sets, first {one.ids[0].as_py()!r}; '
                'all models must be run on the same images'
            )
    was_run = (image >= 0) | np.array([[not one.lists_images] for one in sets])
    shared = was_run.all(axis=0)
    if missing == 'error' and not shared.all():
        k = int(np.argmin(shared))
        without = sets[int(np.argmin(was_run[:, k]))].path
        raise AnnotationError(
            f'{without}: does not have image {ids[k].as_py()!r}, which another set has ({int((~shared).sum())} of '
            f'{len(ids)} images are not in all sets); run every model on all images, or choose --missing drop or '
            '--missing keep'
        )
    if missing == 'drop':
        ids, image, was_run = ids.filter(pa.array(shared)), image[:, shared], was_run[:, shared]
    return tuple(ids.to_pylist()), image, was_run


def _weight_matrix(
    count: int,
    classes: ClassNames,
    weights: Sequence[float] | None,
    class_weights: Mapping[str, Sequence[float]] | None,
) -> np.ndarray:
    """(M, C) weights as given."""
    general = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if general.shape != (count,) or not (np.isfinite(general) & (general > 0)).all():
        raise ValueError(f'weights: expects {count} values above 0, one for each set, got {general.tolist()}')
    matrix = np.repeat(general[:, None], len(classes), axis=1)
    for mid, values in (class_weights or {}).items():
        column = np.asarray(values, dtype=np.float64)
        if column.shape != (count,) or not (np.isfinite(column) & (column >= 0)).all() or not column.any():
            expected = f'{count} values of at least 0, one for each set, not all 0'
            raise ValueError(f'class_weights[{mid!r}]: expects {expected}, got {column.tolist()}')
        matrix[:, classes.indices([mid], 'class_weights')[0]] = column
    return matrix


def fuse_image(
    votes: Votes, fusion: Fusion, found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], was_run: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fuses the detections of M models on one image.

    Args:
        votes: Classes and weights.
        fusion: Settings.
        found: Boxes, scores and class indices of each model.
        was_run: (M,) bool.

    Returns:
        Boxes, scores and class indices, the best score first.
    """
    if votes.expand == 'before':
        found = [_with_ancestors(votes, fusion, *columns) for columns in found]
    # Classes with the same weights are fused together.
    present = np.unique(np.concatenate([label for _, _, label in found]))
    weights, group_of_class = np.unique(votes.weights[:, present], axis=1, return_inverse=True)
    parts = [fuse(fusion, (), (), ())]
    for group, weight in enumerate(weights.T):
        chosen = present[group_of_class.reshape(-1) == group]
        voters = np.flatnonzero(was_run & (weight > 0))
        rows_of = [np.isin(found[m][2], chosen) for m in voters]
        boxes, scores, labels = ([found[m][k][rows] for m, rows in zip(voters, rows_of)] for k in range(3))
        parts.append(fuse(fusion, boxes, scores, labels, weight[voters].tolist() if votes.scales else None))
    box, score, label = map(np.concatenate, zip(*parts))
    if votes.expand == 'after':
        box, score, label = _with_ancestors(votes, fusion, box, score, label)
    best = np.argsort(-score, kind='stable')[: fusion.max_per_image]
    return box[best], score[best], label[best]


def _with_ancestors(
    votes: Votes, fusion: Fusion, box: np.ndarray, score: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert votes.hierarchy is not None
    image = np.zeros(len(label), dtype=np.int64)
    rows, label = add_ancestors(votes.hierarchy, image, label, score, box, fusion.iou_threshold)
    return box[rows], score[rows], label


def run_ensemble(
    sets: MatchedSets,
    fusion: Fusion,
    out: str | Path,
    *,
    num_workers: int | None = None,
    overwrite: bool = False,
    restart: bool = False,
    images_per_shard: int = IMAGES_PER_SHARD,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Fuses all images into a PredictionStore.

    A killed run resumes when it is started again with the same sets and settings (:class:`PredictionShards`). Neither
    that nor the number of workers changes a byte of the result.

    Args:
        sets: The matched sets.
        fusion: Settings.
        out: The new folder.
        num_workers: Processes; None: the number of cores.
        overwrite: Replace predictions that are there.
        restart: Remove the shards of an earlier run first.
        images_per_shard: Images that a worker fuses at a time. A resumed run keeps its own.
        progress: Progress in images.

    Returns:
        Counts by description.

    Raises:
        FileExistsError: ``out`` exists.
        AnnotationError: No image or no detection to fuse; there are shards of another ensemble.
        ChildProcessError: A worker was killed.
    """
    num_images, votes = len(sets.image_ids), sets.votes
    counts = {'images': num_images, **_count_left_out(sets, fusion)}
    ancestors = None if votes.hierarchy is None else votes.hierarchy.ancestor_matrix.tolist()
    matched = [sets.image_ids, sets.image.tolist(), votes.classes.label_names, votes.weights.tolist(), votes.scales]
    text = json.dumps([matched, sets.was_run.tolist(), votes.expand, ancestors])
    shards = open_shards(
        out,
        {
            'sets': [_identity(one.path) for one in sets.sets],
            'images, classes or weights': hashlib.sha256(text.encode()).hexdigest(),
            'fusion': asdict(fusion),
        },
        run='an ensemble',
        num_images=num_images,
        images_per_shard=images_per_shard,
        overwrite=overwrite,
        restart=restart,
    )
    finished = shards.done()
    counts['images done by an earlier run'] = done = sum(last - first for first, last in finished)
    todo = sorted(set(shards.bounds) - set(finished))
    progress('fusing images', done, num_images)
    for count in _fuse_shards(sets, fusion, shards, todo, num_workers or os.cpu_count() or 1):
        done += count
        progress('fusing images', done, num_images)
    counts['detections fused'] = shards.join(votes.classes.label_names, votes.classes.display_names, overwrite)
    return counts


def _count_left_out(sets: MatchedSets, fusion: Fusion) -> dict[str, int]:
    """Counts what does not take part, by description."""
    counts: dict[str, int] = {}
    total = 0
    for one, image in zip(sets.sets, sets.image):
        usable = int(fusion.usable(one.score, one.box).sum())
        total += usable
        own = {
            **{f'left out: {reason}': count for reason, count in one.left_out.items()},
            **one.changed,
            'left out: score 0 or below --skip-score': len(one.score) - usable,
            'left out: images that are not in all sets': one.num_images - int((image >= 0).sum()),
        }
        if not one.lists_images:
            own['images without a row, taken as without detections'] = int((image < 0).sum())
        counts |= {f'{one.path.name}: {reason}': count for reason, count in own.items() if count}
    if not sets.image_ids or not total:
        what = 'no image is in all sets' if not sets.image_ids else 'no detection of any set takes part'
        reasons = '; '.join(f'{reason}: {count}' for reason, count in counts.items())
        raise AnnotationError(f'{sets.sets[0].path} and the other sets: {what}' + (f' ({reasons})' if reasons else ''))
    return counts


def _identity(path: Path) -> list[Any]:
    file = path / 'detections.arrow' if path.is_dir() else path
    status = file.stat()
    return [str(file.resolve()), status.st_size, status.st_mtime_ns]


def _fuse_shards(
    sets: MatchedSets, fusion: Fusion, shards: PredictionShards, todo: Sequence[Bound], num_workers: int
) -> Iterator[int]:
    """Writes the shards. Yields the number of images of each finished one."""
    job = (sets.votes, fusion, shards)
    num_workers = min(num_workers, len(todo))
    if num_workers <= 1:
        yield from (_write_shard(*job, _shard(sets, bound)) for bound in todo)
        return
    # Not fork: the caller may have threads (Arrow's pool), which do not survive one.
    with ProcessPoolExecutor(num_workers, get_context('spawn'), _start_worker, job) as pool:
        running: set[Future[int]] = set()
        try:
            for bound in todo:
                running.add(pool.submit(_work, _shard(sets, bound)))
                if len(running) >= 2 * num_workers:  # the detections of these lie in memory
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in finished)
            yield from (future.result() for future in running)
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f'{shards.folder}: a worker was killed, probably by the out-of-memory killer (check dmesg); the same '
                'command resumes from here, with fewer workers (--workers) if need be'
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, eq=False)
class _Shard:
    """Some images: ids, counts and detections (boxes, scores, class indices) of each set, ``was_run`` (M, n)."""

    bound: Bound
    image_ids: Sequence[str]
    counts: Sequence[np.ndarray]
    columns: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
    was_run: np.ndarray


def _shard(sets: MatchedSets, bound: Bound) -> _Shard:
    images = slice(*bound)
    per_image, columns = [], []
    for one, image, label in zip(sets.sets, sets.image, sets.label):
        counts, rows = gather_rows(one.detection_stop, image[images])
        per_image.append(counts)
        columns.append((np.clip(one.box[rows], 0, 1), one.score[rows], label[one.label[rows]]))
    return _Shard(bound, sets.image_ids[images], per_image, columns, sets.was_run[:, images])


def _write_shard(votes: Votes, fusion: Fusion, shards: PredictionShards, shard: _Shard) -> int:
    stops = [np.cumsum(counts) for counts in shard.counts]
    fused = []
    for image in range(len(shard.image_ids)):
        found = []
        for stop, counts, (box, score, label) in zip(stops, shard.counts, shard.columns):
            rows = np.arange(stop[image] - counts[image], stop[image])
            rows = rows[fusion.usable(score[rows], box[rows])]
            found.append((box[rows], score[rows], label[rows]))
        fused.append(fuse_image(votes, fusion, found, shard.was_run[:, image]))
    box, score, label = map(np.concatenate, zip(*fused))
    shards.write(
        shard.bound,
        image_ids=shard.image_ids,
        detections_per_image=np.array([len(one[1]) for one in fused]),
        label=label,
        score=score,
        box=box,
        label_names=votes.classes.label_names,
        class_names=votes.classes.display_names,
    )
    return len(shard.image_ids)


_job: tuple[Votes, Fusion, PredictionShards]


def _start_worker(*job: Any) -> None:
    """Receives the settings once for each worker, not with each shard."""
    global _job
    end_with_parent()
    _job = job


def _work(shard: _Shard) -> int:
    return _write_shard(*_job, shard)
