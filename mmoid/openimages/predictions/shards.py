"""PredictionShards: the results of a long run in folders of a few images each, which outlive a killed run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions.prediction_store import PredictionStore, write_predictions
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.utils.atomic import atomic_write, naming_path

PLAN = 'plan.json'

Bound: TypeAlias = tuple[int, int]
"""First and last + 1 image of a shard."""


class PredictionShards:
    """The images of a run, cut into shards. Finished shards lie in ``<out>.parts``.

    A shard is there whole or not at all, and so is the result. Several processes may write, each its own shards.

    Attributes:
        out: Folder of the result.
        folder: Folder of the shards.
        bounds: All shards, in order.
    """

    def __init__(self, out: str | Path, num_images: int, images_per_shard: int) -> None:
        self.out, self.folder = Path(out), _folder_of(out)
        starts = range(0, num_images, images_per_shard)
        self.bounds: list[Bound] = [(first, min(first + images_per_shard, num_images)) for first in starts]

    def path(self, bound: Bound) -> Path:
        """Folder of a finished shard."""
        return self.folder / f'images-{bound[0]:08d}-{bound[1]:08d}'

    def done(self) -> list[Bound]:
        """Finished shards."""
        return [bound for bound in self.bounds if self.path(bound).is_dir()]

    def read(self, bound: Bound) -> PredictionStore:
        """A finished shard."""
        return PredictionStore(self.path(bound))

    def write(self, bound: Bound, **columns: Any) -> None:
        """Writes a shard; arguments of :func:`mmoid.openimages.predictions.prediction_store.write_predictions`."""
        write_predictions(self.path(bound), **columns)

    def join(self, label_names: Sequence[str], class_names: Sequence[str], overwrite: bool) -> int:
        """Joins all shards into ``out`` and removes them. Returns the number of detections.

        Columns are joined on disk: memory holds one shard at a time, and the ids of all images.

        Raises:
            AnnotationError: A shard is missing.
            FileExistsError: ``out`` exists and may not be replaced.
        """
        kinds = {'label': np.int32, 'score': np.float32, 'box': np.float64}
        files = {name: self.folder / f'.writing-{name}' for name in kinds}
        ids: list[str] = []
        counts: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
        with naming_path(self.folder), ExitStack() as stack:
            streams = {name: stack.enter_context(file.open('wb')) for name, file in files.items()}
            for shard in map(self.read, self.bounds):
                for name, stream in streams.items():
                    stream.write(getattr(shard, name).data)
                ids += shard.image_ids()
                counts.append(np.diff(shard.detection_stop, prepend=0))
        columns = {name: _map_values(files[name], kind) for name, kind in kinds.items()}
        write_predictions(
            self.out,
            image_ids=ids,
            detections_per_image=np.concatenate(counts),
            **columns,
            label_names=label_names,
            class_names=class_names,
            overwrite=overwrite,
        )
        _remove(self.folder)
        return len(columns['label'])


def open_shards(
    out: str | Path,
    plan: Mapping[str, Any],
    *,
    run: str,
    num_images: int,
    images_per_shard: int,
    overwrite: bool = False,
    restart: bool = False,
) -> PredictionShards:
    """Starts a run, or resumes a killed one. One process calls this before others join (:func:`join_run`).

    Args:
        out: Folder of the result.
        plan: JSON values that the predictions depend on, by name. A run is resumed only with the same plan.
        run: Kind of run, for messages: ``an ensemble``.
        num_images: Of the result.
        images_per_shard: Of a new run. A resumed one keeps its own.
        overwrite: Predictions at ``out`` may be replaced.
        restart: Remove the shards of an earlier run.

    Raises:
        AnnotationError: There are shards of a run with another plan.
        FileExistsError: ``out`` exists and may not be replaced.
    """
    require_replaceable(out, overwrite)
    folder = _folder_of(out)
    plan = json.loads(json.dumps({**plan, 'num_images': num_images}))
    if restart and (folder / PLAN).is_file():
        _remove(folder)
    # A plan that was being written when a run was killed does not count.
    if not folder.exists() or all(path.name.startswith('.writing-') for path in folder.iterdir()):
        with atomic_write(folder / PLAN) as temporary:
            temporary.write_text(json.dumps({**plan, 'run': run, 'images_per_shard': images_per_shard}, indent=1))
    before = _read_plan(folder, run)
    other = [name.replace('_', ' ') for name in plan if before.get(name) != plan[name]]
    if other:
        raise AnnotationError(
            f'{folder}: has shards of {run} with a different {" and ".join(other)}; finish that run with its own '
            'arguments, or remove its shards with restart=True (--restart)'
        )
    return PredictionShards(out, num_images, before['images_per_shard'])


def join_run(out: str | Path, num_images: int, run: str) -> PredictionShards:
    """The shards of a run that another process has opened with :func:`open_shards`."""
    return PredictionShards(out, num_images, _read_plan(_folder_of(out), run)['images_per_shard'])


def _folder_of(out: str | Path) -> Path:
    return Path(out).with_name(f'{Path(out).name}.parts')


def _read_plan(folder: Path, run: str) -> dict[str, Any]:
    try:
        plan = json.loads((folder / PLAN).read_text())
    except (OSError, ValueError) as error:
        raise AnnotationError(f'{folder}: not a folder of {run} ({error}); give another --out') from error
    if not isinstance(plan, dict) or plan.get('run') != run:
        raise AnnotationError(f'{folder}: not a folder of {run}; give another --out')
    return plan


def _remove(folder: Path) -> None:
    """Removes the plan last: what a kill leaves is a run that can be resumed."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    shutil.rmtree(folder)


def _map_values(file: Path, dtype: type) -> np.ndarray:
    return np.memmap(file, dtype, 'r') if file.stat().st_size else np.empty(0, dtype)
