"""Class-aware samplers at full size: build, epochs and memory of ours and of mmdet's.

    python tools/benchmarks/bench_sampler.py                       # 1.74 million images: 3 min, 3 GB of disk
    python tools/benchmarks/bench_sampler.py --images 100000       # seconds

Each sampler runs in its own process. Ours reads its lists from a prepared store and also counts images for ancestors
of their classes, as in training. Build and first epoch together should take less than 1 s. mmdet's ClassAwareSampler
has λ = 1 only, cannot count ancestors, and asks the data set for the classes of every image. It runs twice: on Python
lists that are ready in memory, the fastest possible data set, and on our data set. Memory is what building and drawing
add to the process: `private` stays, `peak` is the most on the way.
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
    'mmoid_0.7': ('SoftBalanceClassAwareSampler, λ = 0.7', 0.7),
    'mmoid_1.0': ('SoftBalanceClassAwareSampler, λ = 1', 1.0),
    'mmoid_0.0': ('SoftBalanceClassAwareSampler, λ = 0', 0.0),
    'mmdet_lists': ('ClassAwareSampler, ready lists', None),
    'mmdet_store': ('ClassAwareSampler, our data set', None),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=full_size.NUM_IMAGES, help='images (default: %(default)s)')
    parser.add_argument('--folder', type=Path, help='keep the generated files here, and use them if they exist')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmarks/sampler.json'), help='figures, as JSON')
    return parser.parse_args()


class ReadyLists:
    """A data set with a ready list of distinct labels for each image, and nothing else."""

    def __init__(self, store: Any) -> None:
        self.metainfo = dict(classes=store.class_names)
        self.labels: list[list[int]] = [[] for _ in range(store.num_images)]
        label = np.repeat(np.arange(store.num_classes), store.class_image_counts(expand_hierarchy=False))
        for image, name in zip(store.class_images(expand_hierarchy=False).tolist(), label.tolist()):
            self.labels[image].append(name)

    def __len__(self) -> int:
        return len(self.labels)

    def get_cat_ids(self, index: int) -> list[int]:
        return self.labels[index]


def sampler_figures(name: str, folder: str, barrier: Any) -> dict[str, Any]:
    from mmdet.datasets.samplers import ClassAwareSampler

    import mmoid

    dataset = mmoid.OpenImagesHierarchyDataset(f'{folder}/store', data_prefix=dict(img=f'{folder}/images'))
    if name == 'mmdet_lists':
        dataset = ReadyLists(dataset.store)
    balance = SAMPLERS[name][1]
    before, peak_before = measure.memory_of_this_process(), measure.peak_memory_of_this_process()

    def build() -> Any:
        if balance is None:
            return ClassAwareSampler(dataset, seed=0)
        return mmoid.SoftBalanceClassAwareSampler(dataset, balance=balance, seed=0)

    build_seconds, sampler = measure.stopwatch(build)
    seconds = []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        seconds.append(measure.stopwatch(lambda: len(list(sampler)))[0])
    return {
        'build_seconds': build_seconds,
        'first_epoch_seconds': seconds[0],  # a new process still has to get its memory
        'epoch_seconds': min(seconds),
        'build_and_epoch_seconds': build_seconds + seconds[0],
        'private_mib': measure.memory_of_this_process()['private'] - before['private'],
        'peak_mib': measure.peak_memory_of_this_process() - peak_before,
    }


def make_store(folder: str, num_images: int, barrier: Any) -> dict[str, Any]:
    from mmoid.openimages.readers.official_csv import convert
    from mmoid.openimages.store.annotation_store import AnnotationStore

    path = Path(folder) / 'store'
    if not path.exists():
        convert(path, **full_size.write_annotations(path.parent, num_images))
    store = AnnotationStore(path)
    full_size.write_checked_images(path.parent, store.image_ids())
    return {'images': store.num_images, 'boxes': store.num_boxes}


def show(results: dict[str, Any]) -> None:
    columns = ('', 'build, s', 'first epoch, s', 'both, s', 'an epoch, s', 'private MiB', 'peak MiB')
    seconds = ('build_seconds', 'first_epoch_seconds', 'build_and_epoch_seconds', 'epoch_seconds')
    rows = []
    for name, figures in results['samplers'].items():
        memory = (f'{figures[key]:,.0f}' for key in ('private_mib', 'peak_mib'))
        rows.append((SAMPLERS[name][0], *(f'{figures[key]:,.3f}' for key in seconds), *memory))
    measure.show(f'{results["images"]:,} images, {results["boxes"]:,} boxes', columns, rows)


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(args.folder or temporary)
        results = {'machine': measure.machine(), **measure.in_fresh_process(make_store, folder, args.images)}
        results['samplers'] = {name: measure.in_fresh_process(sampler_figures, name, folder) for name in SAMPLERS}
    measure.write_json(args.out, results)
    show(results)
    print(f'{args.out}: the same as JSON')


if __name__ == '__main__':
    main()
