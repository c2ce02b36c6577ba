"""PredictionShards: predictions of a long run, kept in folders of so many images each, which outlive a killed run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions.prediction_store import PredictionStore, join_predictions, write_predictions
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.utils.atomic import atomic_write

PLAN = 'plan.json'

Bound: TypeAlias = tuple[int, int]
"""First and last + 1 image of a shard."""


class PredictionShards:
    """The images of a run, cut into shards; those that are done lie in ``<out>.parts``.

    A shard is there whole or not at all, and so is the result. Any number of processes may write, each its own shards.

    Attributes:
        out: Where the whole result goes.
        folder: Where the shards are until then.
        bounds: Of all shards, in order.
    """

    def __init__(self, out: str | Path, num_images: int, images_per_shard: int) -> None:
        self.out, self.folder = Path(out), folder_of(out)
        starts = range(0, num_images, images_per_shard)
        self.bounds: list[Bound] = [(first, min(first + images_per_shard, num_images)) for first in starts]

    def path(self, bound: Bound) -> Path:
        """Where a shard lies when it is done."""
        return self.folder / f'images-{bound[0]:08d}-{bound[1]:08d}'

    def done(self) -> list[Bound]:
        """Shards that are there."""
        return [bound for bound in self.bounds if self.path(bound).is_dir()]

    def read(self, bound: Bound) -> PredictionStore:
        """A shard that is done."""
        return PredictionStore(self.path(bound))

    def write(self, bound: Bound, **columns: Any) -> None:
        """Writes a shard; arguments of :func:`mmoid.openimages.predictions.prediction_store.write_predictions`."""
        write_predictions(self.path(bound), **columns, scratch=self.folder)

    def join(self, label_names: Sequence[str], class_names: Sequence[str], overwrite: bool) -> int:
        """Puts the shards together into ``out`` and removes them; the number of detections.

        Raises:
            AnnotationError: A shard is missing, or something is at ``out`` that may not be replaced.
        """
        missing = [bound for bound in self.bounds if not self.path(bound).is_dir()]
        if missing:
            raise AnnotationError(
                f'{self.path(missing[0])}: is missing, like {len(missing) - 1} others; all processes must see one '
                'folder, and must be done'
            )
        names = dict(label_names=label_names, class_names=class_names)
        parts = [self.path(bound) for bound in self.bounds]
        count = join_predictions(self.out, parts, **names, overwrite=overwrite, scratch=self.folder)
        _remove(self.folder)
        return count


def folder_of(out: str | Path) -> Path:
    """Where the shards of a result lie."""
    return Path(out).with_name(f'{Path(out).name}.parts')


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
    """Begins a run, or goes on with one that was killed; for one process, before others take part.

    Args:
        out: Where the result goes.
        plan: JSON values on which the predictions depend, by name. A run goes on only with the same.
        run: What it is, for messages: ``an ensemble``.
        num_images: Of the result.
        images_per_shard: Of a run that begins. One that goes on keeps its own, whatever is asked for.
        overwrite: Predictions at ``out`` may be replaced.
        restart: Throw the shards of an earlier run away, whatever they are of.

    Raises:
        AnnotationError: Something is at ``out``, or shards of another run are beside it.
    """
    require_replaceable(out, overwrite)
    folder = folder_of(out)
    plan = json.loads(json.dumps({**plan, 'num_images': num_images}))
    if restart and (folder / PLAN).is_file():
        _remove(folder)
    # A plan that was being written when a run was killed is nothing yet.
    if folder.exists() and any(not path.name.startswith('.writing-') for path in folder.iterdir()):
        before = _read_plan(folder, run)
        other = [name for name in plan if before.get(name) != plan[name]]
        if other:
            raise AnnotationError(
                f'{folder}: holds shards of {run} with other {", ".join(other).replace("_", " ")}; finish that with '
                'its own arguments, or throw them away with restart=True (--restart)'
            )
        return PredictionShards(out, num_images, before['images_per_shard'])
    with atomic_write(folder / PLAN) as temporary:
        temporary.write_text(json.dumps({**plan, 'run': run, 'images_per_shard': images_per_shard}, indent=1))
    return PredictionShards(out, num_images, images_per_shard)


def join_run(out: str | Path, num_images: int, run: str) -> PredictionShards:
    """The shards of a run that :func:`open_shards` has opened, for its other processes."""
    return PredictionShards(out, num_images, _read_plan(folder_of(out), run)['images_per_shard'])


def _remove(folder: Path) -> None:
    """The plan last: what is left when this is killed is a run that can go on."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    shutil.rmtree(folder)


def _read_plan(folder: Path, run: str) -> dict[str, Any]:
    try:
        plan = json.loads((folder / PLAN).read_text())
    except (OSError, ValueError) as error:
        raise AnnotationError(f'{folder}: is no folder of {run} ({error}); give another --out') from error
    if not isinstance(plan, dict) or plan.get('run') != run:
        raise AnnotationError(f'{folder}: is no folder of {run}; give another --out')
    return plan
