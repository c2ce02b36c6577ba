"""An ensemble of many images: in processes, in shards that outlive a killed run, put together at the end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
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

from ..arrow_folder import require_replaceable
from ..errors import AnnotationError
from ..image_files import Progress, no_progress
from ..new_file import new_file
from ..predictions import PredictionStore, write_predictions
from ..ragged import row_lengths
from .fusion import Fusion, require_ensemble_boxes
from .sets import MatchedSets
from .shard import fuse_images

IMAGES_PER_SHARD = 128
"""A few seconds' work: what a killed run loses."""

PLAN = 'plan.json'


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
        images_per_shard: Images that a worker fuses at a time.
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
    parts = out.with_name(f'{out.name}.parts')
    _open_parts(parts, _plan(sets, fusion, images_per_shard), restart)
    bounds = [(first, min(first + images_per_shard, num_images)) for first in range(0, num_images, images_per_shard)]
    todo = [bound for bound in bounds if not _shard(parts, *bound).is_dir()]
    resumed = done = num_images - sum(last - first for first, last in todo)
    progress('fusing images', done, num_images)
    for count in _fuse_shards(sets, fusion, parts, todo, num_workers or os.cpu_count() or 1):
        done += count
        progress('fusing images', done, num_images)
    detections_out = _put_together(out, sets, [_shard(parts, *bound) for bound in bounds], overwrite)
    shutil.rmtree(parts)
    return EnsembleSummary(
        sets=len(sets.paths),
        images=num_images,
        resumed=resumed,
        detections_in=detections_in,
        detections_out=detections_out,
        classes=len(sets.label_names),
    )


def _plan(sets: MatchedSets, fusion: Fusion, images_per_shard: int) -> dict[str, Any]:
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
        'images_per_shard': images_per_shard,
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


def _open_parts(parts: Path, plan: dict[str, Any], restart: bool) -> None:
    if restart and (parts / PLAN).is_file():
        shutil.rmtree(parts)
    if parts.exists() and any(parts.iterdir()):
        try:
            before = json.loads((parts / PLAN).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise AnnotationError(f'{parts}: is no folder of an ensemble ({error}); give another --out') from error
        other = [name for name in plan if before.get(name) != plan[name]]
        if other:
            raise AnnotationError(
                f'{parts}: holds shards of an ensemble with other {", ".join(other)}; finish that with its own '
                'arguments, or throw them away with restart=True (--restart)'
            )
        return
    with new_file(parts / PLAN) as temporary:
        temporary.write_text(json.dumps(plan))


def _shard(parts: Path, first: int, last: int) -> Path:
    return parts / f'images-{first:08d}-{last:08d}'


def _fuse_shards(
    sets: MatchedSets, fusion: Fusion, parts: Path, todo: Sequence[tuple[int, int]], num_workers: int
) -> Iterator[int]:
    """Writes the shards; gives the number of images of each as it is done."""
    if min(num_workers, len(todo)) <= 1:
        worker = _Worker(sets, fusion, parts)
        for bound in todo:
            yield worker.write_shard(bound)
        return
    # Not fork: the caller may hold threads (Arrow's pool), which do not survive one.
    with ProcessPoolExecutor(
        min(num_workers, len(todo)), get_context('spawn'), initializer=_start_worker, initargs=(sets, fusion, parts)
    ) as pool:
        try:
            for future in as_completed([pool.submit(_write_shard, bound) for bound in todo]):
                yield future.result()
        except BrokenProcessPool as error:
            raise AnnotationError(
                f'{parts}: a worker was ended from outside, perhaps for want of memory; the same command goes on from '
                'here, with fewer workers (--workers) if need be'
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Worker:
    def __init__(self, sets: MatchedSets, fusion: Fusion, parts: Path) -> None:
        self.sets, self.fusion, self.parts = sets, fusion, parts
        self.stores = [PredictionStore(path) for path in sets.paths]

    def write_shard(self, bound: tuple[int, int]) -> int:
        first, last = bound
        found = fuse_images(self.sets, self.stores, self.fusion, first, last)
        write_predictions(
            _shard(self.parts, first, last),
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


def _start_worker(sets: MatchedSets, fusion: Fusion, parts: Path) -> None:
    global _worker
    # A parent that is killed tells nobody; without this the workers would wait for work for ever.
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _worker = _Worker(sets, fusion, parts)


def _end_with_the_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_shard(bound: tuple[int, int]) -> int:
    assert _worker is not None
    return _worker.write_shard(bound)


def _put_together(out: Path, sets: MatchedSets, shards: Sequence[Path], overwrite: bool) -> int:
    parts = [PredictionStore(path) for path in shards]
    label = np.concatenate([np.empty(0, dtype=np.int32), *(part.label for part in parts)])
    write_predictions(
        out,
        image_ids=sets.image_ids,
        detections_per_image=np.concatenate(
            [np.empty(0, dtype=np.int64), *(np.diff(part.detection_stop, prepend=0) for part in parts)]
        ),
        label=label,
        score=np.concatenate([np.empty(0, dtype=np.float32), *(part.score for part in parts)]),
        box=np.concatenate([np.empty((0, 4)), *(part.box for part in parts)]),
        label_names=sets.label_names,
        class_names=sets.class_names,
        overwrite=overwrite,
    )
    return len(label)


def _count(sets: MatchedSets) -> int:
    """Detections of all sets on the images of the result."""
    total = 0
    for path, image in zip(sets.paths, sets.image):
        total += int(row_lengths(PredictionStore(path).detection_stop, image).sum())
    return total
