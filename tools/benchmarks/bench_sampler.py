"""Measures class-aware samplers at full size: build, epochs and memory of ours and of mmdet's.

    python tools/benchmarks/bench_sampler.py                       # 1.74 million images: 3 min, 3 GB of disk
    python tools/benchmarks/bench_sampler.py --images 100000       # seconds

Each sampler runs in its own process. Ours reads its lists from a prepared store and also counts images for ancestors
of their classes, as in training. mmdet's ClassAwareSampler has λ = 1 only, cannot count ancestors, and asks the data
set for the classes of every image. It runs twice: on Python lists that are ready in memory, the fastest possible data
set, and on our data set. Memory is what building and drawing add to the process: `private` stays, `peak` is the most
on the way.
"""

from functools import partial
from pathlib import Path
from typing import Any

import full_size
import measure

EPOCHS = 3
SAMPLERS = {
    'SoftBalanceClassAwareSampler, λ = 0.7': 0.7,
    'SoftBalanceClassAwareSampler, λ = 1': 1.0,
    'SoftBalanceClassAwareSampler, λ = 0': 0.0,
    'ClassAwareSampler, ready lists': None,
    'ClassAwareSampler, our data set': None,
}


class ReadyLists:
    """A data set with a ready list of labels for each image, and nothing else."""

    def __init__(self, dataset: Any) -> None:
        self.metainfo = dataset.metainfo
        self.labels = [sorted(set(dataset.get_cat_ids(index))) for index in range(len(dataset))]

    def __len__(self) -> int:
        return len(self.labels)

    def get_cat_ids(self, index: int) -> list[int]:
        return self.labels[index]


def sampler_figures(name: str, folder: Path) -> dict[str, Any]:
    from mmdet.datasets.samplers import ClassAwareSampler

    import mmoid

    dataset: Any = mmoid.OpenImagesHierarchyDataset(str(folder / 'store'), data_prefix=dict(img=str(folder / 'images')))
    if name == 'ClassAwareSampler, ready lists':
        dataset = ReadyLists(dataset)
    balance = SAMPLERS[name]
    before = measure.memory_of_this_process()
    kind = ClassAwareSampler if balance is None else partial(mmoid.SoftBalanceClassAwareSampler, balance=balance)
    build_seconds, sampler = measure.stopwatch(partial(kind, dataset, seed=0))
    seconds = []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        seconds.append(measure.stopwatch(lambda: len(list(sampler)))[0])
    after = measure.memory_of_this_process()
    return {
        'build, s': build_seconds,
        'first epoch, s': seconds[0],  # a new process still has to get its memory
        'both, s': build_seconds + seconds[0],
        'an epoch, s': min(seconds),
        'private MiB': after['private'] - before['private'],
        'peak MiB': after['peak'] - before['peak'],
    }


if __name__ == '__main__':
    with full_size.annotations(measure.command_line(__doc__, 'sampler')) as (args, folder):
        size = measure.in_fresh_process(full_size.make_store, folder)
        samplers = {name: measure.in_fresh_process(sampler_figures, name, folder) for name in SAMPLERS}
    measure.report(args.out, {f'{size["images"]:,} images, {size["boxes"]:,} boxes': samplers})
