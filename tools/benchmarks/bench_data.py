"""Measures annotations at full size: conversion, opening, memory, access, class counts and rates, beside stock mmdet.

    python tools/benchmarks/bench_data.py                       # 1.74 million images: 6 min, 3 GB of disk
    python tools/benchmarks/bench_data.py --images 100000       # seconds
    python tools/benchmarks/bench_data.py --folder DIR          # keeps the generated files for the next run

Both data sets read the same generated boxes (tools/benchmarks/full_size.py). The stock data set is linear in the number
of images: it reads a tenth of them, and its seconds and bytes are multiplied by ten. Each figure is from a new process.
CPU seconds are of all threads; compare them if the machine is busy. Memory is what opening and reading all data adds to
a process that has imported mmdet; `private` pages are its own, others may be shared.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import full_size
import measure
import mmengine
import numpy as np
from pyarrow import csv

from mmoid.openimages.statistics.concurrent_rates import count_concurrence
from mmoid.openimages.store.annotation_store import AnnotationStore

ITEMS = 20_000
BATCH = 8
STOCK_SHARE = 10
READ_ALL = ('box', 'box_label', 'is_group_of', 'width', 'height', 'box_stop', 'class_box_counts')


def concurrent_rates(folder: Path) -> None:
    count_concurrence(AnnotationStore(folder / 'store'))


def timed(work: Callable[..., Any], *args: Any) -> dict[str, float]:
    before = time.process_time()
    seconds, _ = measure.stopwatch(work, *args)
    cpu_seconds = time.process_time() - before
    return {'s': seconds, 'CPU s': cpu_seconds, 'peak MiB': measure.memory_of_this_process()['peak']}


def open_dataset(kind: str, folder: Path) -> Any:
    """The training data set of the kind, ``mmoid`` or ``stock``, with a pipeline that needs no images."""
    from mmdet.datasets import OpenImagesDataset

    import mmoid

    images, pipeline = dict(img=str(folder / 'images')), [dict(type='mmdet.LoadAnnotations', with_bbox=True)]
    if kind == 'mmoid':
        return mmoid.OpenImagesHierarchyDataset(str(folder / 'store'), data_prefix=images, pipeline=pipeline)
    files = dict(ann_file='boxes.csv', label_file='classes.csv', meta_file='metas.pkl', hierarchy_file='hierarchy.json')
    paths = {name: str(folder / file) for name, file in files.items()}
    return OpenImagesDataset(**paths, data_prefix=images, pipeline=pipeline)


def memory(kind: str, folder: Path) -> dict[str, Any]:
    import mmdet.datasets  # noqa: F401  (every process imports these)

    import mmoid.datasets  # noqa: F401

    before = measure.memory_of_this_process()
    seconds, dataset = measure.stopwatch(open_dataset, kind, folder)
    if kind == 'mmoid':
        for name in READ_ALL:
            getattr(dataset.store, name).sum()
    for index in np.random.default_rng(0).integers(0, len(dataset), 2000):
        dataset.get_data_info(int(index))
    after = measure.memory_of_this_process()
    return {'open, s': seconds, **{f'{name} memory, MiB': after[name] - before[name] for name in before}}


def access(kind: str, folder: Path) -> dict[str, Any]:
    from mmdet.datasets.samplers import ClassAwareSampler
    from torch.utils.data import DataLoader

    dataset = open_dataset(kind, folder)
    indices = np.random.default_rng(0).integers(0, len(dataset), ITEMS).tolist()
    rounds = [timed(lambda: [dataset.get_data_info(index) for index in indices]) for _ in range(3)]
    figures: dict[str, Any] = {'get_data_info / s': ITEMS / min(one['CPU s'] for one in rounds)}
    for workers in (0, 2):
        batches = iter(DataLoader(dataset, BATCH, sampler=indices, num_workers=workers, collate_fn=list))
        next(batches)  # starts the workers
        seconds, _ = measure.stopwatch(lambda batches=batches: sum(1 for _ in batches))
        figures[f'items / s, DataLoader, {workers} workers'] = (ITEMS - BATCH) / seconds
    counts = (dataset.class_image_counts, False) if kind == 'mmoid' else (ClassAwareSampler, dataset)
    return {**figures, 'class counts and image lists, s': measure.stopwatch(*counts)[0]}


def fastest_of_two(work: Callable[[Path], Any], path: Path) -> dict[str, float]:
    return min((measure.in_fresh_process(timed, work, path) for _ in range(2)), key=lambda figures: figures['s'])


if __name__ == '__main__':
    with full_size.annotations(measure.command_line(__doc__, 'data')) as (args, folder):
        once = {
            "pyarrow's bare read of the CSV": fastest_of_two(csv.read_csv, folder / 'boxes.csv'),
            'CSV to store': fastest_of_two(full_size.make_store, folder),
            'concurrent rates': measure.in_fresh_process(timed, concurrent_rates, folder),
        }
        full_size.write_annotations(folder / 'stock', args.images // STOCK_SHARE)
        metas = [
            {'filename': f'{size["image_id"]}.jpg', 'ori_shape': (size['height'], size['width'], 3)}
            for size in csv.read_csv(folder / 'stock/sizes.csv').to_pylist()
        ]
        mmengine.dump(metas, folder / 'stock/metas.pkl')  # as mmdet reads the image sizes
        ours, stock = (
            measure.in_fresh_process(memory, *of) | measure.in_fresh_process(access, *of)
            for of in (('mmoid', folder), ('stock', folder / 'stock'))
        )
    figures = {}
    for name in ours:  # seconds and bytes grow with the number of images
        scale = 1 if '/ s' in name else STOCK_SHARE
        figures[name] = {'mmoid': ours[name], 'stock mmdet, a tenth, scaled': scale * stock[name]}
    measure.report(args.out, {f'{args.images:,} images': figures, 'Once for each data set': once})
