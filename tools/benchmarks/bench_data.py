"""Annotations at full size: conversion, opening, memory, access, class counts, concurrent rates; beside stock mmdet.

    python tools/benchmarks/bench_data.py                       # 1.74 million images: 10 min, 3 GB of disk
    python tools/benchmarks/bench_data.py --images 100000       # seconds
    python tools/benchmarks/bench_data.py --folder DIR          # keeps the generated files, and takes them if there

Both data sets read the same generated boxes (tools/benchmarks/full_size.py). The stock one, which is linear in the
number of images, gets a tenth of them and its seconds and bytes are multiplied by ten, unless ``--full-stock``. Every
figure comes from a fresh process. CPU seconds are of all threads, and what to look at if the machine is busy with other
work; items a second of `get_data_info` are counted by them. Memory is what opening the data set and reading all of it
adds to a process that has imported mmdet: `private` pages are its own; `together` counts pages that several processes
share once.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import full_size
import measure
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
    parser.add_argument('--folder', type=Path, help='where the generated files go; deleted at the end if not given')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmarks/data.json'), help='the figures, as JSON')
    return parser.parse_args()


# What is measured. Each function runs in a process of its own.


def bare_read(folder: str, barrier: Any) -> dict[str, Any]:
    figures, table = timed(lambda: csv.read_csv(f'{folder}/boxes.csv'))
    return {**figures, 'rows': len(table)}


def conversion(folder: str, barrier: Any) -> dict[str, Any]:
    from mmoid.openimages.readers.official_csv import convert

    files = {name: f'{folder}/{file}' for name, file in full_size.FILES.items()}
    figures, summary = timed(lambda: convert(f'{folder}/store', **files, overwrite=True))
    return {**figures, 'rows': summary.box_rows}


def open_dataset(kind: str, folder: str) -> Any:
    """The training data set of the kind, ``mmoid`` or ``stock``, with a pipeline that needs no pictures."""
    from mmdet.datasets import OpenImagesDataset

    import mmoid

    pipeline = [dict(type='mmdet.LoadAnnotations', with_bbox=True)]
    if kind == 'mmoid':
        return mmoid.OpenImagesHierarchyDataset(
            f'{folder}/store', data_prefix=dict(img=f'{folder}/images'), pipeline=pipeline
        )
    return OpenImagesDataset(
        ann_file=f'{folder}/boxes.csv',
        label_file=f'{folder}/classes.csv',
        meta_file=f'{folder}/metas.pkl',
        hierarchy_file=f'{folder}/hierarchy.json',
        data_prefix=dict(img=f'{folder}/images'),
        pipeline=pipeline,
    )


def memory(kind: str, folder: str, barrier: Any) -> dict[str, Any]:
    import mmdet.datasets  # noqa: F401  (what every process has anyway)

    import mmoid.datasets  # noqa: F401

    before, peak_before = measure.memory_of_this_process(), measure.peak_memory_of_this_process()
    barrier.wait()
    seconds, dataset = measure.stopwatch(lambda: open_dataset(kind, folder))
    if kind == 'mmoid':
        total = sum(float(getattr(dataset.store, name).sum()) for name in READ_ALL)
        assert np.isfinite(total)
    for index in np.random.default_rng(0).integers(0, len(dataset), 2000):
        dataset.get_data_info(int(index))
    barrier.wait()  # measured while all of them hold what they hold
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
    figures: dict[str, Any] = {'get_data_info_per_second': ITEMS / min(figures['cpu_seconds'] for figures in rounds)}
    for workers in (0, 2):
        loader = DataLoader(dataset, BATCH, sampler=indices, num_workers=workers, collate_fn=list)
        batches = iter(loader)
        next(batches)  # starts the workers
        seconds, _ = measure.stopwatch(lambda batches=batches: sum(1 for _ in batches))
        figures[f'loader_{workers}_workers_items_per_second'] = (ITEMS - BATCH) / seconds
    if kind == 'mmoid':
        seconds, counts = measure.stopwatch(lambda: dataset.class_image_counts(expand_hierarchy=False))
    else:
        seconds, sampler = measure.stopwatch(lambda: ClassAwareSampler(dataset))
        counts = sampler.num_cat_imgs
    return {**figures, 'class_counts_seconds': seconds, 'images_by_class': int(np.sum(counts))}


def concurrent_rates(folder: str, barrier: Any) -> dict[str, Any]:
    from mmoid.openimages.statistics.concurrent_rates import count_concurrence
    from mmoid.openimages.store.annotation_store import AnnotationStore

    store = AnnotationStore(f'{folder}/store')
    figures, concurrence = timed(lambda: count_concurrence(store))
    return {**figures, 'objects_with_a_pair': int(concurrence.together.sum()) // 2}


def timed(work: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    before = time.process_time()
    seconds, result = measure.stopwatch(work)
    cpu_seconds = time.process_time() - before
    peak = measure.peak_memory_of_this_process()
    return {'seconds': seconds, 'cpu_seconds': cpu_seconds, 'peak_mib': peak}, result


# How the figures are made and shown.


def make_files(folder: Path, num_images: int) -> None:
    """The stand-in, what stock mmdet wants besides, and the few pictures that our data set looks for when it opens.

    Nothing is made where an earlier run has made the same.
    """
    import mmengine

    made = folder / 'made.json'
    if made.exists() and json.loads(made.read_text()) == {'images': num_images}:
        return
    made.unlink(missing_ok=True)
    files = full_size.write_annotations(folder, num_images)
    sizes = csv.read_csv(str(files['image_sizes'])).to_pydict()
    images = folder / 'images'
    images.mkdir(exist_ok=True)
    for index in np.linspace(0, num_images - 1, 16).astype(int):  # as OpenImagesHierarchyDataset checks them
        (images / f'{sizes["image_id"][index]}.jpg').touch()
    metas = [
        {'filename': f'{image_id}.jpg', 'ori_shape': (height, width, 3)}
        for image_id, width, height in zip(sizes['image_id'], sizes['width'], sizes['height'])
    ]
    mmengine.dump(metas, folder / 'metas.pkl')
    made.write_text(json.dumps({'images': num_images}))


def measure_mmoid(folder: str) -> dict[str, Any]:
    rounds = [
        (measure.in_fresh_process(bare_read, folder), measure.in_fresh_process(conversion, folder)) for _ in range(2)
    ]
    bare = min((pair[0] for pair in rounds), key=lambda figures: figures['seconds'])
    ours = min((pair[1] for pair in rounds), key=lambda figures: figures['seconds'])
    return {
        'bare_read': bare,
        'conversion': ours,
        **measure_dataset('mmoid', folder),
        'concurrent_rates': measure.in_fresh_process(concurrent_rates, folder),
    }


def measure_dataset(kind: str, folder: str) -> dict[str, Any]:
    one = measure.in_fresh_process(memory, kind, folder)
    several = measure.in_processes(PROCESSES, memory, kind, folder)
    return {
        'one_process': one,
        'together_mib': sum(figures['share_mib'] for figures in several),
        'most_private_mib': max(figures['private_mib'] for figures in several),
        **measure.in_fresh_process(access, kind, folder),
    }


def scaled(stock: dict[str, Any], scale: float) -> dict[str, Any]:
    """Seconds and bytes that grow with the number of images, at the full number."""
    one = {name: value * scale for name, value in stock['one_process'].items()}
    linear = {name: stock[name] * scale for name in ('together_mib', 'most_private_mib', 'class_counts_seconds')}
    return {**stock, 'one_process': one, **linear}


def aims(ours: dict[str, Any], stock: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each aim of the project for these figures, the figure, and whether it is met."""
    item_time = stock['get_data_info_per_second'] / ours['get_data_info_per_second']
    figures = {
        'open, seconds': (ours['one_process']['open_seconds'], 0.5),
        'private memory of a process, MiB': (ours['most_private_mib'], 100),
        '8 processes together / one process': (ours['together_mib'] / ours['one_process']['share_mib'], 1.5),
        'conversion / bare CSV read': (ours['conversion']['seconds'] / ours['bare_read']['seconds'], 3),
        "get_data_info, time / mmdet's": (item_time, 2),
        'concurrent rates, seconds': (ours['concurrent_rates']['seconds'], 60),
        'concurrent rates, peak MiB': (ours['concurrent_rates']['peak_mib'], 6 * 1024),
    }
    return {name: {'figure': figure, 'below': aim, 'met': figure < aim} for name, (figure, aim) in figures.items()}


def show(results: dict[str, Any]) -> None:
    ours, stock = results['mmoid'], results['stock']
    note = '' if results['stock_images'] == results['images'] else f', measured at {results["stock_images"]:,}, scaled'
    rows = []

    def row(name: str, key: str, form: str, inner: str | None = None) -> None:
        a, b = (part[inner][key] if inner else part[key] for part in (ours, stock))
        rows.append((name, format(a, form), format(b, form)))

    row('open, s', 'open_seconds', ',.3f', 'one_process')
    row('peak memory of one process, MiB', 'peak_mib', ',.0f', 'one_process')
    row('private memory of one process, MiB', 'private_mib', ',.1f', 'one_process')
    row('one process, shared pages included, MiB', 'share_mib', ',.0f', 'one_process')
    row(f'{PROCESSES} processes together, MiB', 'together_mib', ',.0f')
    row('get_data_info / s', 'get_data_info_per_second', ',.0f')
    row('items / s, DataLoader, 0 workers', 'loader_0_workers_items_per_second', ',.0f')
    row('items / s, DataLoader, 2 workers', 'loader_2_workers_items_per_second', ',.0f')
    row('class counts and image lists, s', 'class_counts_seconds', ',.4f')
    measure.show(f'{results["images"]:,} images, {results["boxes"]:,} boxes', ('', 'mmoid', f'stock mmdet{note}'), rows)
    conversion_rows = [
        (name, f'{part["seconds"]:,.2f}', f'{part["cpu_seconds"]:,.2f}', f'{results["boxes"] / part["seconds"]:,.0f}',
         f'{part["peak_mib"]:,.0f}')
        for name, part in (('pyarrow reads the CSV', ours['bare_read']), ('CSV to store', ours['conversion']),
                           ('concurrent rates', ours['concurrent_rates']))
    ]  # fmt: skip
    measure.show('Once for each data set', ('', 's', 'CPU s', 'boxes / s', 'peak MiB'), conversion_rows)
    measure.show(
        'Aims at full size', ('', 'figure', 'below', 'met'),
        [(name, f'{aim["figure"]:,.2f}', f'{aim["below"]:,.1f}', 'yes' if aim['met'] else 'NO')
         for name, aim in results['aims'].items()],
    )  # fmt: skip


def run(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    stock_images = args.images if args.full_stock else max(1, args.images // 10)
    make_files(folder, args.images)
    ours = measure_mmoid(str(folder))
    stock_folder = folder if args.full_stock else folder / 'stock'
    if not args.full_stock:
        make_files(stock_folder, stock_images)
    stock = scaled(measure_dataset('stock', str(stock_folder)), args.images / stock_images)
    return {
        'machine': measure.machine(),
        'images': args.images,
        'boxes': ours['conversion']['rows'],
        'stock_images': stock_images,
        'mmoid': ours,
        'stock': stock,
        'aims': aims(ours, stock),
    }


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results = run(args.folder or Path(temporary), args)
    measure.write_json(args.out, results)
    show(results)
    print(f'{args.out}: the same as JSON')


if __name__ == '__main__':
    main()
