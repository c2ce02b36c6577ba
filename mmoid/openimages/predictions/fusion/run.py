"""An ensemble of many images: in processes, in shards that outlive a killed run, put together at the end."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions.fusion.fusion import Fusion, require_ensemble_boxes
from mmoid.openimages.predictions.fusion.sets import MatchedSets
from mmoid.openimages.predictions.fusion.shard import fuse_images
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.predictions.shards import Bound, PredictionShards, open_shards
from mmoid.openimages.ragged import row_lengths
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.utils.progress import Progress, no_progress

IMAGES_PER_SHARD = 128
"""A few seconds' work: what a killed run loses."""


@dataclass(frozen=True)
class EnsembleSummary:
    """What was fused into what. ``resumed`` images were there from an earlier run."""

    sets: int
    images: int
    resumed: int
    detections_in: int
    detections_out: int
    classes: int


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
) -> EnsembleSummary:
    """Fuses all images into a PredictionStore.

    Finished shards lie in ``<out>.parts`` until the end. A run that was killed goes on from them when it is started
    again with the same sets and settings. Neither that nor the number of workers changes a byte of the result.

    Args:
        sets: The matched sets.
        fusion: Settings.
        out: The new folder.
        num_workers: Processes; None: the number of cores.
        overwrite: Replace predictions that are there.
        restart: Throw the shards of an earlier run away, whatever they are of.
        images_per_shard: Images that a worker fuses at a time; a run that goes on keeps its own.
        progress: Told how many images are fused.

    Raises:
        AnnotationError: Something is at ``out``, shards of another ensemble are beside it, ensemble-boxes is missing, a
            worker was killed.
    """
    out = Path(out)
    require_ensemble_boxes()
    require_replaceable(out, overwrite)
    detections_in = _count(sets)  # opens all of them: a damaged one is told now
    num_images = len(sets.image_ids)
    shards = open_shards(
        out,
        _plan(sets, fusion),
        run='an ensemble',
        num_images=num_images,
        images_per_shard=images_per_shard,
        overwrite=overwrite,
        restart=restart,
    )
    found = shards.done()
    resumed = done = sum(last - first for first, last in found)
    todo = [bound for bound in shards.bounds if bound not in set(found)]
    progress('fusing images', done, num_images)
    for count in _fuse_shards(sets, fusion, shards, todo, num_workers or os.cpu_count() or 1):
        done += count
        progress('fusing images', done, num_images)
    detections_out = shards.join(sets.label_names, sets.class_names, overwrite)
    return EnsembleSummary(
        sets=len(sets.paths),
        images=num_images,
        resumed=resumed,
        detections_in=detections_in,
        detections_out=detections_out,
        classes=len(sets.label_names),
    )


def _plan(sets: MatchedSets, fusion: Fusion) -> dict[str, Any]:
    """All that the shards depend on."""
    return {
        'sets': [_identity(path) for path in sets.paths],
        'images': _digest(sets.image_ids, sets.image),
        'classes': list(sets.label_names),
        'weights': sets.weight.tolist(),
        'weighted': sets.weighted,
        'expand': sets.expand,
        'ancestors': None if sets.hierarchy is None else _digest((), sets.hierarchy.ancestor_matrix),
        'fusion': asdict(fusion),
        'ensemble_boxes': version('ensemble-boxes'),
    }


def _identity(path: Path) -> list[Any]:
    file = path / 'detections.arrow'
    status = file.stat()
    return [str(file.resolve()), status.st_size, status.st_mtime_ns]


def _digest(texts: Sequence[str], array: np.ndarray) -> str:
    digest = hashlib.sha256('\n'.join(texts).encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _fuse_shards(
    sets: MatchedSets, fusion: Fusion, shards: PredictionShards, todo: Sequence[Bound], num_workers: int
) -> Iterator[int]:
    """Writes the shards; gives the number of images of each as it is done."""
    if min(num_workers, len(todo)) <= 1:
        worker = _Worker(sets, fusion, shards)
        for bound in todo:
            yield worker.write_shard(bound)
        return
    # Not fork: the caller may hold threads (Arrow's pool), which do not survive one.
    with ProcessPoolExecutor(
        min(num_workers, len(todo)), get_context('spawn'), initializer=_start_worker, initargs=(sets, fusion, shards)
    ) as pool:
        try:
            for future in as_completed([pool.submit(_write_shard, bound) for bound in todo]):
                yield future.result()
        except BrokenProcessPool as error:
            raise AnnotationError(
                f'{shards.folder}: a worker was ended from outside, perhaps for want of memory; the same command goes '
                'on from here, with fewer workers (--workers) if need be'
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Worker:
    def __init__(self, sets: MatchedSets, fusion: Fusion, shards: PredictionShards) -> None:
        self.sets, self.fusion, self.shards = sets, fusion, shards
        self.stores = [PredictionStore(path) for path in sets.paths]

    def write_shard(self, bound: Bound) -> int:
        first, last = bound
        found = fuse_images(self.sets, self.stores, self.fusion, first, last)
        self.shards.write(
            bound,
            image_ids=self.sets.image_ids[first:last],
            detections_per_image=found.counts,
            label=found.label,
            score=found.score,
            box=found.box,
            label_names=self.sets.label_names,
            class_names=self.sets.class_names,
        )
        return last - first


_worker: _Worker | None = None


def _start_worker(sets: MatchedSets, fusion: Fusion, shards: PredictionShards) -> None:
    global _worker
    # A parent that is killed tells nobody; without this the workers would wait for work for ever.
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _worker = _Worker(sets, fusion, shards)


def _end_with_the_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_shard(bound: Bound) -> int:
    assert _worker is not None
    return _worker.write_shard(bound)


def _count(sets: MatchedSets) -> int:
    """Detections of all sets on the images of the result."""
    total = 0
    for path, image in zip(sets.paths, sets.image):
        total += int(row_lengths(PredictionStore(path).detection_stop, image).sum())
    return total
