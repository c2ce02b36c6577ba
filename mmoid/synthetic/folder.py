"""Writes the synthetic data set: the official annotation files, images, ``world.json``. All or nothing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import repeat
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from mmoid.openimages.errors import AnnotationError
from mmoid.synthetic.drawing import draw_scene
from mmoid.synthetic.scenes import SPLITS, Scene, World, WorldConfig, build_world, compose_image
from mmoid.utils.progress import Progress, no_progress

WORLD_FILE = 'world.json'
FORMAT = 1  # raise it whenever the same options give other bytes
_CHUNK = 25  # images per task of a worker
_BOX_HEADER = 'ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf'
_LABEL_HEADER = 'ImageID,LabelName,Confidence'


def write_dataset(
    out: str | Path,
    config: WorldConfig,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> bool:
    """Makes the data set, unless it is there already.

    Everything goes into a temporary folder beside ``out`` that is renamed at the end; a killed run leaves only that
    one, and the next run removes it.

    Args:
        out: Folder to make. It may exist if it is empty or holds the data set of the same config.
        config: The knobs.
        workers: Processes; 1 works in this one. Does not change a byte of the result.
        overwrite: Replace a data set that this function has made before. Any other folder is never replaced.
        progress: Called with ``(what, done, total)`` as the images of a split get finished.

    Returns:
        True if it was written, False if it was there.

    Raises:
        AnnotationError: ``out`` holds something else (the message names the option that differs), or ``workers`` is
            not positive.
    """
    out = Path(os.path.abspath(out))
    if workers < 1:
        raise AnnotationError(f'workers: must be at least 1, got {workers}')
    if _is_finished(out, config, overwrite):
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f'.{out.name}.partial-{platform.node()}-'
    _remove_leftovers(out.parent, prefix)
    partial = out.parent / f'{prefix}{os.getpid()}'
    try:
        _write_files(partial, config, workers, progress)
        if _is_finished(out, config, overwrite):  # another process was faster
            return False
        if out.exists() and any(out.iterdir()):
            os.replace(out, f'{partial}-old')
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(f'{partial}-old', ignore_errors=True)
    return True


def write_images(config: WorldConfig, split: str, indices: Iterable[int], folder: Path) -> list[Scene]:
    """Composes, draws and saves some images as ``folder/<ImageID>.jpg``; what one worker process does."""
    world = build_world(config)
    scenes = [compose_image(world, split, index) for index in indices]
    for scene in scenes:
        draw_scene(scene).save(folder / f'{scene.image_id}.jpg', quality=92, subsampling=0)
    return scenes


def _is_finished(out: Path, config: WorldConfig, overwrite: bool) -> bool:
    """Whether the same data set is there; raises where ``out`` must not be used."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / WORLD_FILE).read_text())
        there = {'format': found['format'], **found['options']}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnnotationError(
            f'{out}: is not empty and was not made by this tool (no valid {WORLD_FILE}); empty it, or give another'
        ) from error
    if overwrite:
        return False
    wanted = {'format': FORMAT, **asdict(config)}
    differing = [name for name in wanted if there.get(name) != wanted[name]]
    if differing:
        changes = ', '.join(f'{name}={there.get(name)} (now {wanted[name]})' for name in differing)
        raise AnnotationError(
            f'{out}: was made with {changes}; give the same options, another folder, or --overwrite (overwrite=True)'
        )
    return True


def _remove_leftovers(parent: Path, prefix: str) -> None:
    """Removes the temporary folders of killed runs; those of running processes of this host are left alone."""
    for folder in [entry for entry in parent.iterdir() if entry.name.startswith(prefix)]:
        process = folder.name.removeprefix(prefix).removesuffix('-old')
        if process.isdigit() and int(process) != os.getpid():
            try:
                os.kill(int(process), 0)
                continue  # it is alive
            except PermissionError:
                continue  # alive, of another user
            except ProcessLookupError:
                pass
        shutil.rmtree(folder, ignore_errors=True)


def _write_files(folder: Path, config: WorldConfig, workers: int, progress: Progress) -> None:
    world = build_world(config)
    annotations = folder / 'annotations'
    annotations.mkdir(parents=True)
    statistics = {}
    for split, count in zip(SPLITS, (config.num_train, config.num_validation), strict=True):
        images = folder / 'images' / split
        images.mkdir(parents=True)
        scenes: list[Scene] = []
        for done in _scenes_by_chunk(config, split, count, images, workers):
            scenes.extend(done)
            progress(f'{split} images', len(scenes), count)
        scenes.sort(key=lambda scene: scene.image_id)  # as in the official files
        boxes = (
            f'{row.image_id},{row.label_name},{row.x_min:.6f},{row.x_max:.6f},{row.y_min:.6f},{row.y_max:.6f},'
            f'{row.is_group_of}'
            for scene in scenes
            for row in scene.boxes
        )
        labels = (','.join(map(str, row)) for scene in scenes for row in scene.image_labels)
        _write_lines(annotations / f'{split}-detection-bbox.csv', [_BOX_HEADER, *boxes])
        _write_lines(annotations / f'{split}-detection-human-imagelabels.csv', [_LABEL_HEADER, *labels])
        statistics[split] = class_statistics(world, scenes)
    descriptions = [f'{label},{name}' for label, name in zip(world.label_names, world.names, strict=True)]
    _write_lines(annotations / 'classes-description.csv', descriptions)
    (annotations / 'label-hierarchy.json').write_text(json.dumps(world.tree, indent=4) + '\n')
    (folder / WORLD_FILE).write_text(json.dumps(_describe(world, statistics), indent=1) + '\n')


def _scenes_by_chunk(config: WorldConfig, split: str, count: int, folder: Path, workers: int) -> Iterator[list[Scene]]:
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    arguments = (repeat(config), repeat(split), chunks, repeat(folder))
    if workers == 1:
        yield from map(write_images, *arguments)
        return
    with ProcessPoolExecutor(
        min(workers, max(1, len(chunks))), mp_context=get_context('spawn'), initializer=_end_with_parent
    ) as pool:
        yield from pool.map(write_images, *arguments)


def _end_with_parent() -> None:
    """Ends this worker when its parent is killed; left alone it would wait for the next task forever."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open('w', encoding='utf-8', newline='\n') as file:
        file.writelines(f'{line}\n' for line in lines)


def class_statistics(world: World, scenes: Iterable[Scene]) -> dict[str, np.ndarray]:
    """Counts per class, each (C,): what is really there, and what the annotations say.

    ``true_objects``, ``true_images``: objects that are of the class or of a descendant (a cluster counts once), images
    with one. ``boxes``, ``group_of_boxes``, ``images`` (with a box), ``positive_labels``, ``negative_labels``: rows,
    not expanded. ``unverified_images``: images where the class would have been labelled but was left out.
    """
    names = ('true_objects', 'true_images', 'boxes', 'group_of_boxes', 'images', 'positive_labels', 'negative_labels')
    counts = {name: np.zeros(len(world.names), dtype=np.int64) for name in (*names, 'unverified_images')}
    index = {name: i for i, name in enumerate(world.label_names)}
    is_or_below = world.hierarchy.ancestor_matrix | np.eye(len(world.names), dtype=bool)
    for scene in scenes:
        objects = [is_or_below[list(item.true_labels)].any(axis=0) for item in scene.objects]
        counts['true_objects'] += np.sum(objects, axis=0, dtype=np.int64)
        counts['true_images'] += np.any(objects, axis=0)
        for row in scene.boxes:
            counts['boxes'][index[row.label_name]] += 1
            counts['group_of_boxes'][index[row.label_name]] += row.is_group_of
        for name in {row.label_name for row in scene.boxes}:
            counts['images'][index[name]] += 1
        for label in scene.image_labels:
            counts['positive_labels' if label.confidence else 'negative_labels'][index[label.label_name]] += 1
        counts['unverified_images'][list(scene.unverified)] += 1
    return counts


def _describe(world: World, statistics: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """The content of ``world.json``."""
    kinds = {label: kind for kind in world.kinds for label in kind.labels}
    classes = []
    for label, (label_name, name) in enumerate(zip(world.label_names, world.names, strict=True)):
        entry: dict[str, Any] = {'label_name': label_name, 'name': name, 'is_leaf': label in kinds}
        if label in kinds:
            kind = kinds[label]
            entry['look'] = kind.look._asdict()
            entry['frequency_rank'] = world.leaf_labels.index(label)
            for other in set(kind.labels) - {label}:
                entry['coin_toss_with' if kind.coin_toss else 'shares_look_with'] = world.label_names[other]
        for split, counts in statistics.items():
            entry[split] = {key: int(values[label]) for key, values in counts.items()}
        classes.append(entry)
    return {'format': FORMAT, 'options': asdict(world.config), 'classes': classes}
