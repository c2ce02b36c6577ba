"""Writes a synthetic data set: the official annotation files, images, and ``metadata.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

from mmoid.openimages.store.arrow_folder import read_metadata, write_folder, write_tables
from mmoid.synthetic.drawing import draw_scene
from mmoid.synthetic.scenes import SPLITS, Scene, compose_image
from mmoid.synthetic.world import WorldConfig, build_world
from mmoid.utils.processes import end_with_parent
from mmoid.utils.progress import Progress, no_progress

FORMAT = 'mmoid synthetic data set'
VERSION = 1  # increase it when the same knobs give other files


def write_dataset(
    out: str | Path,
    config: WorldConfig,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> bool:
    """Makes the data set unless it exists. ``out`` is complete or absent, even if the process is killed.

    Args:
        out: The new folder.
        config: The knobs.
        workers: Processes. The files do not depend on them.
        overwrite: Replace a data set that this function made.
        progress: Called after every few images.

    Returns:
        True if it was written, False if it exists with the same knobs.

    Raises:
        ValueError: ``out`` has other content; the message names the knobs that differ.
    """
    out = Path(out).absolute()
    if out.is_dir() and any(out.iterdir()):
        found = read_metadata(out, FORMAT, VERSION, 'make_synthetic_openimages.py')['options']
        wanted = asdict(config).items()
        changes = [f'{name}={found.get(name)} (now {value})' for name, value in wanted if found.get(name) != value]
        if not changes and not overwrite:
            return False
        if not overwrite:
            made = ', '.join(changes)
            raise ValueError(f'{out}: was made with {made}; give the same options, another folder, or --overwrite')
    with write_folder(out, overwrite) as folder:
        _write_files(folder, config, workers, progress)
    return True


def _write_files(folder: Path, config: WorldConfig, workers: int, progress: Progress) -> None:
    world = build_world(config)
    annotations = folder / 'annotations'
    annotations.mkdir()
    for split, count in zip(SPLITS, (config.num_train, config.num_validation), strict=True):
        images = folder / 'images' / split
        images.mkdir(parents=True)
        scenes: list[Scene] = []
        chunks = [range(start, min(start + 25, count)) for start in range(0, count, 25)]
        with ProcessPoolExecutor(workers, get_context('spawn'), end_with_parent) as pool:
            arguments = (repeat(config), repeat(split), chunks, repeat(images))
            for done in map(write_images, *arguments) if workers == 1 else pool.map(write_images, *arguments):
                scenes.extend(done)
                progress(f'{split} images', len(scenes), count)
        scenes.sort(key=lambda scene: scene.image_id)  # as in the official files

        boxes = ['ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf']
        labels = ['ImageID,LabelName,Confidence']
        for scene in scenes:
            for label, (x_min, y_min, x_max, y_max), is_group in scene.boxes:
                coordinates = f'{x_min:.6f},{x_max:.6f},{y_min:.6f},{y_max:.6f}'
                boxes.append(f'{scene.image_id},{world.label_names[label]},{coordinates},{int(is_group)}')
            for confidence, verified in ((1, scene.present), (0, scene.absent)):
                labels += [f'{scene.image_id},{world.label_names[label]},{confidence}' for label in verified]
        _write_lines(annotations / f'{split}-detection-bbox.csv', boxes)
        _write_lines(annotations / f'{split}-detection-human-imagelabels.csv', labels)
    classes = dict(zip(world.label_names, world.names, strict=True))
    _write_lines(annotations / 'classes-description.csv', [','.join(row) for row in classes.items()])
    (annotations / 'label-hierarchy.json').write_text(json.dumps(world.tree, indent=4) + '\n')
    write_tables(folder, {}, FORMAT, VERSION, {'options': asdict(config), 'classes': classes})


def write_images(config: WorldConfig, split: str, indices: Iterable[int], folder: Path) -> list[Scene]:
    """Composes, draws and saves some images as ``folder/<ImageID>.jpg``; the work of one process."""
    scenes = [compose_image(build_world(config), split, index) for index in indices]
    for scene in scenes:
        draw_scene(scene).save(folder / f'{scene.image_id}.jpg', quality=92, subsampling=0)
    return scenes


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text(''.join(f'{line}\n' for line in lines))
