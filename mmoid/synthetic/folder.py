"""Writes a synthetic data set: the official annotation files, images, and ``metadata.json``."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.statistics.concurrent_rates import count_concurrence, save_rates
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.arrow_folder import read_metadata, write_folder, write_tables
from mmoid.synthetic.drawing import draw_scene
from mmoid.synthetic.scenes import SPLITS, Scene, compose_image
from mmoid.synthetic.world import WorldConfig, build_world
from mmoid.utils.processes import end_with_parent
from mmoid.utils.progress import Progress, no_progress

FORMAT = 'mmoid synthetic data set'
VERSION = 1  # increase it when the same knobs give other files


def write_dataset(
    out: str | Path, config: WorldConfig, workers: int = 1, overwrite: bool = False, progress: Progress = no_progress
) -> bool:
    """Makes the data set unless it exists. ``out`` is complete or absent, even if the process is killed.

    Args:
        out: The new folder.
        config: The knobs.
        workers: Processes. The files do not depend on them.
        overwrite: Replace a data set that this function made.
        progress: Callback, in images.

    Returns:
        True if it was written, False if it exists with the same knobs.

    Raises:
        ValueError: ``out`` has other content; the message names the knobs that differ.
    """
    out = Path(out).absolute()
    if out.is_dir() and any(out.iterdir()):
        found = read_metadata(out, FORMAT, VERSION, 'mmoid synthetic')['options']
        wanted = asdict(config).items()
        changes = [f'{name}={found.get(name)} (now {value})' for name, value in wanted if found.get(name) != value]
        if not changes and not overwrite:
            return False
        if not overwrite:
            made = ', '.join(changes)
            raise ValueError(f'{out}: was made with {made}; give the same options, another folder, or --overwrite')
    world = build_world(config)
    classes = dict(zip(world.label_names, world.names))
    with write_folder(out, overwrite) as folder:
        annotations = folder / 'annotations'
        annotations.mkdir()
        for split, count in zip(SPLITS, (config.num_train, config.num_validation)):
            images = folder / 'images' / split
            images.mkdir(parents=True)
            draw, scenes = partial(write_image, config, split, images), []
            with ProcessPoolExecutor(workers, get_context('spawn'), end_with_parent) as pool:
                numbers = range(count)
                for scene in map(draw, numbers) if workers == 1 else pool.map(draw, numbers, chunksize=25):
                    scenes.append(scene)
                    progress(f'{split} images', len(scenes), count)
            scenes.sort(key=lambda scene: scene.image_id)  # as in the official files
            boxes, labels = _rows(scenes, world.label_names)
            _write_lines(annotations / f'{split}-detection-bbox.csv', boxes)
            _write_lines(annotations / f'{split}-detection-human-imagelabels.csv', labels)
        _write_lines(annotations / 'classes-description.csv', [','.join(row) for row in classes.items()])
        (annotations / 'label-hierarchy.json').write_text(json.dumps(world.tree, indent=4) + '\n')
        write_tables(folder, {}, FORMAT, VERSION, {'options': asdict(config), 'classes': classes})
    return True


def write_stores(root: Path) -> None:
    """Converts a data set of :func:`write_dataset` to the stores and the rates of a data root."""
    annotations = root / 'annotations'
    for split in SPLITS:
        convert(
            root / split,
            boxes=annotations / f'{split}-detection-bbox.csv',
            image_labels=annotations / f'{split}-detection-human-imagelabels.csv',
            classes=annotations / 'classes-description.csv',
            hierarchy=annotations / 'label-hierarchy.json',
            images=root / 'images' / split,
        )
    train = AnnotationStore(root / 'train')
    save_rates(root / 'concurrent_rates.npz', count_concurrence(train).rates, train.label_names)


def write_image(config: WorldConfig, split: str, folder: Path, index: int) -> Scene:
    """Composes, draws and saves an image as ``folder/<ImageID>.jpg``."""
    scene = compose_image(build_world(config), split, index)
    draw_scene(scene).save(folder / f'{scene.image_id}.jpg', quality=92, subsampling=0)
    return scene


def _rows(scenes: list[Scene], label_names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Lines of the box file and of the label file."""
    boxes, labels = ['ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf'], ['ImageID,LabelName,Confidence']
    for scene in scenes:
        for label, (x_min, y_min, x_max, y_max), is_group in scene.boxes:
            coordinates = f'{x_min:.6f},{x_max:.6f},{y_min:.6f},{y_max:.6f}'
            boxes.append(f'{scene.image_id},{label_names[label]},{coordinates},{int(is_group)}')
        for confidence, verified in ((1, scene.present), (0, scene.absent)):
            labels += [f'{scene.image_id},{label_names[label]},{confidence}' for label in verified]
    return boxes, labels


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text(''.join(f'{line}\n' for line in lines))
