"""Annotations at full size: conversion, opening, memory, access, class counts and rates, beside stock mmdet.

    python tools/benchmarks/bench_data.py                       # 1.74 million images: 10 min, 3 GB of disk
    python tools/benchmarks/bench_data.py --images 100000       # seconds
    python tools/benchmarks/bench_data.py --folder DIR          # keeps the generated files for the next run

Both data sets read the same generated boxes (tools/benchmarks/full_size.py). The stock data set is linear in the number
of images: it reads a tenth of them, and its seconds and bytes are multiplied by ten, unless ``--full-stock``. Each
figure is from a new process. CPU seconds are of all threads; compare them if the machine is busy. Memory is what
opening and reading all data adds to a process that has imported mmdet: `private` pages are its own; `together` counts
shared pages once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import full_size
import measure
import mmengine
import numpy as np
from pyarrow import csv

PROCESSES = 8
ITEMS = 20_000
BATCH = 8
READ_ALL = ('box', 'box_label', 'is_group_of', 'width', 'height', 'box_stop', 'class_box_counts')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=full_size.NUM_IMAGES, help='images (default: %(default)s)')
    parser.add_argument('--full-stock', action='store_true', help='give the stock data set all images, not a tenth')
    parser.add_argument('--folder', type=Path, help='keep the generated files here, and use them if they exist')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmarks/data.json'), help='figures, as JSON')
    return parser.parse_args()


# Work that is measured, each in its own process.


def bare_read(folder: str, barrier: Any) -> dict[str, Any]:
    return timed(lambda: csv.read_csv(f'{folder}/boxes.csv'))[0]


def conversion(folder: str, barrier: Any) -> dict[str, Any]:
    from mmoid.openimages.readers.official_csv import convert

    files = {name: f'{folder}/{file}' for name, file in full_size.FILES.items()}
    figures, summary = timed(lambda: convert(f'{folder}/store', **files, overwrite=True))
    return {**figures, 'rows': summary.box_rows}


def open_dataset(kind: str, folder: str) -> Any:
    """The training data set of the kind, ``mmoid`` or ``stock``, with a pipeline that needs no images."""
    from mmdet.datasets import OpenImagesDataset

    import mmoid

    common = dict(
        data_prefix=dict(img=f'{folder}/images'), pipeline=[dict(type='mmdet.LoadAnnotations', with_bbox=True)]
    )
    if kind == 'mmoid':
        return mmoid.OpenImagesHierarchyDataset(f'{folder}/store', **common)
    return OpenImagesDataset(
        ann_file=f'{folder}/boxes.csv',
        label_file=f'{folder}/classes.csv',
        meta_file=f'{folder}/metas.pkl',
        hierarchy_file=f'{folder}/hierarchy.json',
        **common,
    )


def memory(kind: str, folder: str, barrier: Any) -> dict[str, Any]:
    import mmdet.datasets  # noqa: F401  (every process imports these)

    import mmoid.datasets  # noqa: F401

    before, peak_before = measure.memory_of_this_process(), measure.peak_memory_of_this_process()
    barrier.wait()
    seconds, dataset = measure.stopwatch(lambda: open_dataset(kind, folder))
    if kind == 'mmoid':
        for name in READ_ALL:
            getattr(dataset.store, name).sum()
    for index in np.random.default_rng(0).integers(0, len(dataset), 2000):
        dataset.get_data_info(int(index))
    barrier.wait()  # measure while all processes hold their data
    after = measure.memory_of_this_process()
    barrier.wait()
    return {
        'open_seconds': seconds,
        'private_mib': after['private'] - before['private'],
        'share_mib': after['share'] - before['share'],
        'peak_mib': measure.peak_memory_of_this_process() - peak_before,
    }


def access(kind: str, folder: str, barrier: Any) -> dict[str, Any]:
    from mmdet.datasets.samplers import ClassAwareSampler
    from torch.utils.data import DataLoader

    dataset = open_dataset(kind, folder)
    indices = np.random.default_rng(0).integers(0, len(dataset), ITEMS).tolist()
    rounds = [timed(lambda: [dataset.get_data_info(index) for index in indices])[0] for _ in range(3)]
    figures: dict[str, Any] = {'get_data_info_per_second': ITEMS / min(one['cpu_seconds'] for one in rounds)}
    for workers in (0, 2):
        batches = iter(DataLoader(dataset, BATCH, sampler=indices, num_workers=workers, collate_fn=list))
        next(batches)  # starts the workers
        seconds, _ = measure.stopwatch(lambda batches=batches: sum(1 for _ in batches))
        figures[f'loader_{workers}_workers_items_per_second'] = (ITEMS - BATCH) / seconds
    if kind == 'mmoid':
        seconds, _ = measure.stopwatch(lambda: dataset.class_image_counts(expand_hierarchy=False))
    else:
        seconds, _ = measure.stopwatch(lambda: ClassAwareSampler(dataset))
    return {**figures, 'class_counts_seconds': seconds}


def concurrent_rates(folder: str, barrier: Any) -> dict[str, Any]:
    from mmoid.openimages.statistics.concurrent_rates import count_concurrence
    from mmoid.openimages.store.annotation_store import AnnotationStore

    store = AnnotationStore(f'{folder}/store')
    return timed(lambda: count_concurrence(store))[0]


def timed(work: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    before = time.process_time()
    seconds, result = measure.stopwatch(work)
    cpu_seconds = time.process_time() - before
    return {'seconds': seconds, 'cpu_seconds': cpu_seconds, 'peak_mib': measure.peak_memory_of_this_process()}, result


# How the figures are made and shown.


def make_files(folder: Path, num_images: int) -> None:
    """Writes the stand-in and the further files that the data sets need, unless an earlier run has."""
    path = folder / 'metas.pkl'
    if path.exists() and len(mmengine.load(path)) == num_images:
        return
    files = full_size.write_annotations(folder, num_images)
    sizes = csv.read_csv(str(files['image_sizes'])).to_pydict()
    full_size.write_checked_images(folder, sizes['image_id'])
    metas = [
        {'filename': f'{image_id}.jpg', 'ori_shape': (height, width, 3)}
        for image_id, width, height in zip(sizes['image_id'], sizes['width'], sizes['height'])
    ]
    mmengine.dump(metas, path)


def fastest_of_two(work: Callable[..., dict[str, Any]], folder: str) -> dict[str, Any]:
    return min((measure.in_fresh_process(work, folder) for _ in range(2)), key=lambda figures: figures['seconds'])


def measure_dataset(kind: str, folder: str) -> dict[str, Any]:
    several = measure.in_processes(PROCESSES, memory, kind, folder)
    return {
        **measure.in_fresh_process(memory, kind, folder),
        'together_mib': sum(figures['share_mib'] for figures in several),
        'most_private_mib': max(figures['private_mib'] for figures in several),
        **measure.in_fresh_process(access, kind, folder),
    }


def run(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    make_files(folder, args.images)
    once = {
        'bare_read': fastest_of_two(bare_read, str(folder)),
        'conversion': fastest_of_two(conversion, str(folder)),
        'concurrent_rates': measure.in_fresh_process(concurrent_rates, str(folder)),
    }
    ours = measure_dataset('mmoid', str(folder))
    stock_images, stock_folder = args.images, folder
    if not args.full_stock:
        stock_images, stock_folder = args.images // 10, folder / 'stock'
        make_files(stock_folder, stock_images)
    stock = measure_dataset('stock', str(stock_folder))
    for name in stock:
        if not name.endswith('per_second'):  # seconds and bytes grow with the number of images
            stock[name] *= args.images / stock_images
    return {
        'machine': measure.machine(),
        'images': args.images,
        'boxes': once['conversion'].pop('rows'),
        'stock_images': stock_images,
        'once': once,
        'mmoid': ours,
        'stock': stock,
    }


def show(results: dict[str, Any]) -> None:
    ours, stock, once = results['mmoid'], results['stock'], results['once']
    note = '' if results['stock_images'] == results['images'] else f', measured at {results["stock_images"]:,}, scaled'
    names = {
        'open_seconds': 'open, s',
        'peak_mib': 'peak memory of one process, MiB',
        'private_mib': 'private memory of one process, MiB',
        'most_private_mib': f'private memory, most of {PROCESSES} processes, MiB',
        'share_mib': 'one process, shared pages included, MiB',
        'together_mib': f'{PROCESSES} processes together, MiB',
        'get_data_info_per_second': 'get_data_info / s',
        'loader_0_workers_items_per_second': 'items / s, DataLoader, 0 workers',
        'loader_2_workers_items_per_second': 'items / s, DataLoader, 2 workers',
        'class_counts_seconds': 'class counts and image lists, s',
    }
    rows = [(name, f'{ours[key]:,.4g}', f'{stock[key]:,.4g}') for key, name in names.items()]
    title = f'{results["images"]:,} images, {results["boxes"]:,} boxes'
    measure.show(title, ('', 'mmoid', f'stock mmdet{note}'), rows)
    names = {'bare_read': 'pyarrow reads the CSV', 'conversion': 'CSV to store', 'concurrent_rates': 'rates'}
    rows = []
    for key, name in names.items():
        seconds = (f'{once[key][unit]:,.2f}' for unit in ('seconds', 'cpu_seconds'))
        rows.append(
            (name, *seconds, f'{results["boxes"] / once[key]["seconds"]:,.0f}', f'{once[key]["peak_mib"]:,.0f}')
        )
    measure.show('Once for each data set', ('', 's', 'CPU s', 'boxes / s', 'peak MiB'), rows)


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results = run(args.folder or Path(temporary), args)
    measure.write_json(args.out, results)
    show(results)
    print(f'{args.out}: the same as JSON')


if __name__ == '__main__':
    main()
