"""Class-aware samplers at full size: building one, drawing an epoch, memory; ours beside mmdet's.

    python tools/benchmarks/bench_sampler.py                       # 1.74 million images: 3 min, 3 GB of disk
    python tools/benchmarks/bench_sampler.py --images 100000       # seconds

Every figure comes from a fresh process. Ours reads its lists from a prepared store. mmdet's ClassAwareSampler asks the
data set for the classes of every image, so its build depends on that: it gets, once, a stand-in that has them ready as
Python lists, the fastest that any data set can be (what these lists take is not counted), and once our data set. It
has one λ, 1. Ours also counts images for the ancestors of their classes, as it does in training; mmdet's cannot.
Memory is what building the sampler and drawing one epoch add to a process that holds the data set: `private` is what
stays, `peak` the most on the way.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import full_size
import measure
import numpy as np

EPOCHS = 3
SAMPLERS = {
    'mmoid_0.7': ('SoftBalanceClassAwareSampler, λ = 0.7', 'store', 0.7),
    'mmoid_1.0': ('SoftBalanceClassAwareSampler, λ = 1', 'store', 1.0),
    'mmoid_0.0': ('SoftBalanceClassAwareSampler, λ = 0', 'store', 0.0),
    'mmdet_lists': ('ClassAwareSampler, ready lists', 'lists', None),
    'mmdet_store': ('ClassAwareSampler, our data set', 'store', None),
}
AIM = 1.0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=full_size.NUM_IMAGES, help='images (default: %(default)s)')
    parser.add_argument(
        '--folder', type=Path, help='where the generated files go, and stay for the next time; else they are deleted'
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmarks/sampler.json'), help='figures, as JSON')
    return parser.parse_args()


class ReadyLists:
    """A data set that knows nothing but the classes of its images, one list of distinct labels for each."""

    def __init__(self, store: Any) -> None:
        self.metainfo = dict(classes=store.class_names)
        image = np.repeat(np.arange(store.num_classes), store.class_image_counts(expand_hierarchy=False))
        order = np.argsort(store.class_images(expand_hierarchy=False), kind='stable')
        held = np.bincount(store.class_images(expand_hierarchy=False), minlength=store.num_images)
        labels, stops = image[order].tolist(), np.cumsum(held).tolist()
        self.labels = [labels[start:stop] for start, stop in zip([0, *stops], stops)]

    def __len__(self) -> int:
        return len(self.labels)

    def get_cat_ids(self, index: int) -> list[int]:
        return self.labels[index]


def open_dataset(kind: str, folder: str) -> Any:
    import mmoid
    from mmoid.openimages.store.annotation_store import AnnotationStore

    if kind == 'lists':
        return ReadyLists(AnnotationStore(f'{folder}/store'))
    return mmoid.OpenImagesHierarchyDataset(f'{folder}/store', data_prefix=dict(img=f'{folder}/images'))


def sampler_figures(kind: str, balance: float | None, folder: str, barrier: Any) -> dict[str, Any]:
    from mmdet.datasets.samplers import ClassAwareSampler

    import mmoid

    dataset = open_dataset(kind, folder)
    before, peak_before = measure.memory_of_this_process(), measure.peak_memory_of_this_process()

    def build() -> Any:
        if balance is None:
            return ClassAwareSampler(dataset, seed=0)
        return mmoid.SoftBalanceClassAwareSampler(dataset, balance=balance, seed=0)

    def draw(epoch: int) -> list[int]:
        sampler.set_epoch(epoch)
        return list(sampler)

    build_seconds, sampler = measure.stopwatch(build)
    epochs = [measure.stopwatch(lambda epoch=epoch: draw(epoch)) for epoch in range(EPOCHS)]
    draws = len(epochs[-1][1])
    seconds = [seconds for seconds, _ in epochs]
    epochs.clear()  # what is drawn is the caller's
    return {
        'build_seconds': build_seconds,
        'first_epoch_seconds': seconds[0],  # a fresh process still has to get its memory
        'epoch_seconds': min(seconds),
        'build_and_epoch_seconds': build_seconds + seconds[0],
        'private_mib': measure.memory_of_this_process()['private'] - before['private'],
        'peak_mib': measure.peak_memory_of_this_process() - peak_before,
        'draws': draws,
    }


def conversion(folder: str, barrier: Any) -> dict[str, Any]:
    from mmoid.openimages.readers.official_csv import convert

    convert(f'{folder}/store', **{name: f'{folder}/{file}' for name, file in full_size.FILES.items()})
    return {}


def make_store(folder: Path, num_images: int) -> tuple[int, int]:
    """The stand-in as a store, unless it is there; its numbers of images and of class-image pairs."""
    from mmoid.openimages.store.annotation_store import AnnotationStore

    if not (folder / 'store').exists():
        full_size.write_annotations(folder, num_images)
        measure.in_fresh_process(conversion, str(folder))
    store = AnnotationStore(folder / 'store')
    if store.num_images != num_images:
        raise SystemExit(f'error: --folder {folder} holds {store.num_images:,} images, not {num_images:,}')
    (folder / 'images').mkdir(exist_ok=True)
    for index in np.linspace(0, num_images - 1, 16).astype(int):  # as OpenImagesHierarchyDataset checks them
        (folder / 'images' / store.file_name(int(index))).touch()
    return store.num_images, store.num_boxes


def run(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    images, boxes = make_store(folder, args.images)
    figures = {
        name: measure.in_fresh_process(sampler_figures, kind, balance, str(folder))
        for name, (_, kind, balance) in SAMPLERS.items()
    }
    worst = max(figures[name]['build_and_epoch_seconds'] for name in figures if name.startswith('mmoid'))
    aim = {'figure': worst, 'below': AIM, 'met': worst < AIM}
    return {
        'machine': measure.machine(),
        'images': images,
        'boxes': boxes,
        'samplers': figures,
        'aims': {'build and first epoch, seconds': aim},
    }


def show(results: dict[str, Any]) -> None:
    keys = ('build_seconds', 'first_epoch_seconds', 'epoch_seconds', 'private_mib', 'peak_mib')
    rows = [
        (SAMPLERS[name][0], *(f'{figures[key]:,.{3 if key.endswith("seconds") else 0}f}' for key in keys))
        for name, figures in results['samplers'].items()
    ]
    columns = ('', 'build, s', 'first epoch, s', 'an epoch, s', 'private MiB', 'peak MiB')
    measure.show(f'{results["images"]:,} images, {results["boxes"]:,} boxes', columns, rows)
    measure.show(
        'Aims at full size', ('', 'figure', 'below', 'met'),
        [(name, f'{aim["figure"]:,.2f}', f'{aim["below"]:,.1f}', 'yes' if aim['met'] else 'NO')
         for name, aim in results['aims'].items()],
    )  # fmt: skip


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results = run(args.folder or Path(temporary), args)
    measure.write_json(args.out, results)
    show(results)
    print(f'{args.out}: the same as JSON')


if __name__ == '__main__':
    main()
