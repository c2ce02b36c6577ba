"""Predictions of several models -> one PredictionStore, image by image in a process pool.

Example:
    >>> sets = match_sets([PredictionStore(path) for path in paths], weights=[2, 1, 1])
    >>> run_ensemble(sets, Fusion(method='wbf'), out)
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions.ancestors import add_ancestors
from mmoid.openimages.predictions.csv_files import read_predictions
from mmoid.openimages.predictions.fusion import Fusion, fuse
from mmoid.openimages.predictions.prediction_store import PredictionStore, write_predictions
from mmoid.openimages.predictions.shards import Bound, PredictionShards, open_shards
from mmoid.openimages.readers.csv_files import open_text
from mmoid.utils.processes import end_with_parent
from mmoid.utils.progress import Progress, no_progress

IMAGES_PER_SHARD = 128
"""What each worker of a killed run loses at most, a few seconds' work."""


@dataclass(frozen=True, eq=False)
class MatchedSets:
    """M sets of predictions under common image and class indices.

    Attributes:
        stores: M sets.
        image_ids: N ids of the result.
        classes: The C classes of the result.
        image: (M, N) int64 index of an image in each set; -1: the model was not run on it, and has no vote there.
        label: M arrays (K_m,) int64: class of the result for each class of the set.
        weights: (M, C) float64; 0: no vote.
        scales: Whether weights were given; without them scores are not scaled.
        hierarchy: Over the classes of the result, to add ancestors; None: without.
        expand: When ancestors are added: to the detections of each model, or to the result.
    """

    stores: Sequence[PredictionStore]
    image_ids: tuple[str, ...]
    classes: ClassNames
    image: np.ndarray
    label: tuple[np.ndarray, ...]
    weights: np.ndarray
    scales: bool
    hierarchy: ClassHierarchy | None
    expand: Literal['before', 'after'] | None


def open_sets(
    paths: Sequence[str | Path], inputs: str | Path, classes: ClassNames | None = None
) -> list[PredictionStore]:
    """Opens the sets. CSV files are converted to folders, which all processes can map.

    Args:
        paths: Folders or CSV files.
        inputs: Folder of the converted files. One that was converted before is not converted again.
        classes: Classes of the CSV files; None: those that each file names.
    """
    names = None if classes is None else [classes.label_names, classes.display_names]
    stores = []
    for path in map(Path, paths):
        folder = path
        if path.is_file():
            folder = Path(inputs) / _digest([_identity(path), names])
            if not folder.is_dir():
                table = read_predictions(path, classes)
                write_predictions(
                    folder,
                    image_ids=table.image_ids(),
                    detections_per_image=np.diff(table.detection_stop, prepend=0),
                    label=table.label,
                    score=table.score,
                    box=table.box,
                    label_names=table.label_names,
                    class_names=table.class_names,
                )
        stores.append(PredictionStore(folder))
    return stores


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
    stores: Sequence[PredictionStore],
    *,
    weights: Sequence[float] | None = None,
    class_weights: Mapping[str, Sequence[float]] | None = None,
    missing: Literal['error', 'drop', 'keep'] = 'error',
    hierarchy: dict | None = None,
    expand: Literal['before', 'after'] | None = None,
) -> MatchedSets:
    """Matches images by ImageID and classes by MID, whatever their order in each set.

    The result has the images and classes of the first set in their order, then those that only later sets have.

    Args:
        stores: At least one.
        weights: One weight above 0 for each set; None: scores are not scaled.
        class_weights: MID -> one weight >= 0 for each set, in place of ``weights`` for this class. 0: no vote.
        missing: What to do with images that are not in all sets: raise, leave them out, or fuse those sets that have
            them.
        hierarchy: The nested hierarchy, for ``expand``.
        expand: Adds ancestors with NMS at the fusion's IoU threshold (:func:`add_ancestors`). ``before``: to each
            model's detections, so that a model that says Apple votes for Fruit too. ``after``: to the result.

    Raises:
        AnnotationError: Images missing, a weight for an unknown class.
        ValueError: Weights out of range, no hierarchy for ``expand``.
    """
    names = {mid: name for store in stores[::-1] for mid, name in zip(store.label_names, store.class_names)}
    mids = tuple(dict.fromkeys(mid for store in stores for mid in store.label_names))
    classes = ClassNames(mids, tuple(names[mid] for mid in mids), 'the sets')
    label = tuple(classes.indices(store.label_names, str(store.path)) for store in stores)
    graph = None
    if expand is not None:
        if hierarchy is None:
            raise ValueError('expand: needs the hierarchy of the classes (--hierarchy or --store)')
        graph = ClassHierarchy(hierarchy, mids)
    known = np.zeros((len(stores), len(mids)), dtype=bool)
    for row, own in zip(known, label):
        row[own] = True
        if expand == 'before' and graph is not None:
            row |= graph.ancestor_matrix[own].any(axis=0)
    weight = np.where(known, _weight_matrix(len(stores), classes, weights, class_weights), 0.0)
    if not weight.any(axis=0).all():
        mid = mids[int(np.argmin(weight.any(axis=0)))]
        raise ValueError(f'class_weights[{mid!r}]: is above 0 only for sets that do not have this class')
    image_ids, image = _match_images(stores, missing)
    scales = weights is not None or class_weights is not None
    return MatchedSets(stores, image_ids, classes, image, label, weight, scales, graph, expand)


def _match_images(stores: Sequence[PredictionStore], missing: str) -> tuple[tuple[str, ...], np.ndarray]:
    own = [pa.array(store.image_ids(), pa.string()) for store in stores]
    every = pc.unique(pa.chunked_array(own))
    found = [pc.index_in(every, ids).fill_null(-1).to_numpy(zero_copy_only=False) for ids in own]
    image = np.stack(found).astype(np.int64)
    shared = (image >= 0).all(axis=0)
    if missing == 'error' and not shared.all():
        k = int(np.argmin(shared))
        without = stores[int(np.argmax(image[:, k] < 0))].path
        raise AnnotationError(
            f'{without}: does not have image {every[k].as_py()!r}, which another set has ({int((~shared).sum())} of '
            f'{len(every)} images are not in all sets); run every model on all images, or choose --missing drop or '
            '--missing keep'
        )
    if missing == 'drop':
        every, image = every.filter(pa.array(shared)), image[:, shared]
    return tuple(every.to_pylist()), image


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


def fuse_image(sets: MatchedSets, fusion: Fusion, image: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fuses one image of the result. Returns boxes, scores and class indices, the best score first."""
    found = []
    for store, own, label_of in zip(sets.stores, sets.image[:, image], sets.label):
        rows = slice(store.detection_stop[own - 1] if own > 0 else 0, store.detection_stop[own] if own >= 0 else 0)
        box, score, label = np.clip(store.box[rows], 0, 1), store.score[rows], label_of[store.label[rows]]
        used = fusion.usable(score, box)
        box, score, label = box[used], score[used], label[used]
        if sets.expand == 'before':
            box, score, label = _with_ancestors(sets, fusion, box, score, label)
        found.append((box, score, label))
    # Classes with the same weights are fused together.
    present = np.unique(np.concatenate([label for _, _, label in found]))
    weights, group_of_class = np.unique(sets.weights[:, present], axis=1, return_inverse=True)
    parts = []
    for group, weight in enumerate(weights.T):
        chosen = present[group_of_class.reshape(-1) == group]
        voters = np.flatnonzero((sets.image[:, image] >= 0) & (weight > 0))
        rows_of = [np.isin(found[m][2], chosen) for m in voters]
        boxes, scores, labels = ([found[m][k][rows] for m, rows in zip(voters, rows_of)] for k in range(3))
        parts.append(fuse(fusion, boxes, scores, labels, weight[voters].tolist() if sets.scales else None))
    box, score, label = map(np.concatenate, zip(*parts)) if parts else fuse(fusion, (), (), ())
    if sets.expand == 'after':
        box, score, label = _with_ancestors(sets, fusion, box, score, label)
    best = np.argsort(-score, kind='stable')[: fusion.max_per_image]
    return box[best], score[best], label[best]


def _with_ancestors(
    sets: MatchedSets, fusion: Fusion, box: np.ndarray, score: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert sets.hierarchy is not None
    image = np.zeros(len(label), dtype=np.int64)
    rows, label = add_ancestors(sets.hierarchy, image, label, score, box, fusion.iou_threshold)
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
        AnnotationError: There are shards of another ensemble.
        ChildProcessError: A worker was killed.
    """
    num_images = len(sets.image_ids)
    ancestors = None if sets.hierarchy is None else sets.hierarchy.ancestor_matrix.tolist()
    matched = [sets.image_ids, sets.image.tolist(), sets.classes.label_names, sets.weights.tolist(), sets.scales]
    shards = open_shards(
        out,
        {
            'sets': [_identity(store.path / 'detections.arrow') for store in sets.stores],
            'images, classes or weights': _digest([matched, sets.expand, ancestors]),
            'fusion': asdict(fusion),
        },
        run='an ensemble',
        num_images=num_images,
        images_per_shard=images_per_shard,
        overwrite=overwrite,
        restart=restart,
    )
    finished = shards.done()
    resumed = done = sum(last - first for first, last in finished)
    todo = sorted(set(shards.bounds) - set(finished))
    progress('fusing images', done, num_images)
    for count in _fuse_shards(sets, fusion, shards, todo, num_workers or os.cpu_count() or 1):
        done += count
        progress('fusing images', done, num_images)
    fused = shards.join(sets.classes.label_names, sets.classes.display_names, overwrite)
    return {'images': num_images, 'images done by an earlier run': resumed, 'detections fused': fused}


def _identity(file: Path) -> list[Any]:
    status = file.stat()
    return [str(file.resolve()), status.st_size, status.st_mtime_ns]


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _fuse_shards(
    sets: MatchedSets, fusion: Fusion, shards: PredictionShards, todo: Sequence[Bound], num_workers: int
) -> Iterator[int]:
    """Writes the shards. Yields the number of images of each finished one."""
    num_workers = min(num_workers, len(todo))
    if num_workers <= 1:
        yield from (_write_shard(sets, fusion, shards, bound) for bound in todo)
        return
    # Not fork: the caller may have threads (Arrow's pool), which do not survive one.
    with ProcessPoolExecutor(num_workers, get_context('spawn'), _start_worker, (sets, fusion, shards)) as pool:
        try:
            for future in as_completed([pool.submit(_work, bound) for bound in todo]):
                yield future.result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f'{shards.folder}: a worker was killed, probably by the out-of-memory killer (check dmesg); the same '
                'command resumes from here, with fewer workers (--workers) if need be'
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _write_shard(sets: MatchedSets, fusion: Fusion, shards: PredictionShards, bound: Bound) -> int:
    found = [fuse_image(sets, fusion, image) for image in range(*bound)]
    box, score, label = map(np.concatenate, zip(*found))
    shards.write(
        bound,
        image_ids=sets.image_ids[slice(*bound)],
        detections_per_image=np.array([len(one[1]) for one in found]),
        label=label,
        score=score,
        box=box,
        label_names=sets.classes.label_names,
        class_names=sets.classes.display_names,
    )
    return len(found)


_job: tuple[MatchedSets, Fusion, PredictionShards]


def _start_worker(*job: Any) -> None:
    """Receives the sets once for each worker, not with each shard."""
    global _job
    end_with_parent()
    _job = job


def _work(bound: Bound) -> int:
    return _write_shard(*_job, bound)
