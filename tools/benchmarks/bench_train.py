"""Speed and memory of a real training, and the shares of data loading and loss, compared with mmdet's softmax.

    python tools/benchmarks/bench_train.py                                   # R-50, 800 x 1333: for a GPU
    python tools/benchmarks/bench_train.py --scale 320 192 --batch 2 --iterations 10 --warm-up 2     # CPU

mmengine's Runner trains a config on generated images, from scratch. The baseline is the same detector with mmdet's own
box head, RoI sampler and cross-entropy. Each runs in its own process, alternating, without and (on CUDA) with AMP.
*Data* is the time waiting for the loader; *loss* is the forward time from the sampled RoIs to the box-head losses.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

ROOT = Path(__file__).parents[2]
BASES = ('models/label-set_faster-rcnn_r50_fpn.py', 'datasets/openimages.py', 'default_runtime.py')
KINDS = ('stock softmax', 'concurrent softmax')
IMAGE_SIZE = 1024
"""Pixels of the longer side of images in Open Images."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='?', help='a config of label sets on MMOID_DATA_ROOT (default: R-50-FPN)')
    parser.add_argument('--scale', type=int, nargs=2, default=(1333, 800), help='longer, shorter pixels (1333 800)')
    parser.add_argument('--batch', type=int, default=2, help='images per iteration (default: %(default)s)')
    parser.add_argument('--workers', type=int, default=2, help='of the loader (default: %(default)s)')
    parser.add_argument('--iterations', type=int, default=200, help='that count (default: %(default)s)')
    parser.add_argument('--warm-up', type=int, default=20, help='iterations before them (default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=2, help='of each detector, in turn (default: %(default)s)')
    parser.add_argument('--images', type=int, default=64, help='generated images (default: %(default)s)')
    parser.add_argument('--classes', type=int, default=40, help='of the generated world (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmarks/train.json'), help='figures, as JSON')
    return parser.parse_args()


def make_data(root: Path, images: int, classes: int, barrier: Any) -> dict[str, Any]:
    """Writes a data root of generated images; returns its number of classes."""
    from mmoid.openimages.readers.official_csv import convert
    from mmoid.openimages.statistics.concurrent_rates import count_concurrence, save_rates
    from mmoid.openimages.store.annotation_store import AnnotationStore
    from mmoid.synthetic.folder import write_dataset
    from mmoid.synthetic.world import WorldConfig

    write_dataset(root, WorldConfig(num_train=images, num_validation=1, image_size=IMAGE_SIZE, num_classes=classes))
    for split in ('train', 'validation'):
        convert(
            root / split,
            boxes=root / f'annotations/{split}-detection-bbox.csv',
            classes=root / 'annotations/classes-description.csv',
            hierarchy=root / 'annotations/label-hierarchy.json',
            images=root / 'images' / split,
        )
    store = AnnotationStore(root / 'train')
    save_rates(root / 'concurrent_rates.npz', count_concurrence(store).rates, store.label_names)
    return {'classes': store.num_classes}


def load(settings: dict[str, Any]) -> Any:
    """The config without validation, checkpoints, stages and weights."""
    os.environ.update(MMOID_DATA_ROOT=settings['data'], MMOID_NUM_CLASSES=str(settings['classes']))
    if settings['config'] is None:
        cfg = Config.fromstring(f'_base_ = {[str(ROOT / "configs/_base_" / base) for base in BASES]}', '.py')
    else:
        cfg = Config.fromfile(settings['config'])
    cfg.model.backbone.update(init_cfg=None, frozen_stages=-1, norm_eval=False)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator', 'test_dataloader', 'test_cfg', 'test_evaluator'):
        cfg.pop(key, None)
    loader = cfg.train_dataloader
    workers = settings['workers']
    loader.update(batch_size=settings['batch'], num_workers=workers, persistent_workers=workers > 0)
    loader.sampler = dict(type='InfiniteSampler', shuffle=True)
    loader.pop('batch_sampler', None)
    for transform in loader.dataset.pipeline:
        if transform.type == 'Resize':
            transform.scale = tuple(settings['scale'])
    wrapper = 'AmpOptimWrapper' if settings['amp'] else 'OptimWrapper'
    cfg.update(
        custom_hooks=[],
        param_scheduler=None,
        default_hooks=dict(checkpoint=None, logger=None),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=settings['warm_up'] + settings['iterations']),
        optim_wrapper=dict(type=wrapper, optimizer=dict(type='SGD', lr=1e-4)),
        work_dir=settings['work_dir'],
        log_level='ERROR',
    )
    return cfg


def make_stock(model: Any) -> None:
    """Gives the detector mmdet's own head, RoI sampler and loss."""
    head = model.roi_head.bbox_head
    head.type = 'Shared2FCBBoxHead'
    head.loss_cls = dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)
    model.train_cfg.rcnn.sampler.type = 'RandomSampler'


class Clock(Hook):
    """Seconds of each iteration after the warm-up: all, waiting for data, and the RoI sampler with the head's loss."""

    def __init__(self, model: Any, warm_up: int) -> None:
        self.warm_up = warm_up
        self.seconds: list[float] = []
        self.data_seconds: list[float] = []
        self.loss_seconds: list[float] = []
        head, sampler = model.roi_head.bbox_head, model.roi_head.bbox_sampler
        head.loss_and_target = self._timed(head.loss_and_target)
        sampler.sample = self._timed(sampler.sample)

    def before_train(self, runner: Runner) -> None:
        self.last = now()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.data = time.perf_counter() - self.last
        self.loss = 0.0

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        end = now()
        if batch_idx >= self.warm_up:
            self.seconds.append(end - self.last)
            self.data_seconds.append(self.data)
            self.loss_seconds.append(self.loss)
        self.last = end

    def _timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = now()
            result = work(*args, **kwargs)
            self.loss += time.perf_counter() - start
            return result

        return run


def now() -> float:
    """Seconds, once the GPU has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def train(kind: str, settings: dict[str, Any], barrier: Any) -> dict[str, Any]:
    """Figures of one training: seconds of an iteration (median), shares of data and of loss (means), memory."""
    import mmoid.registry  # noqa: F401

    torch.multiprocessing.set_start_method(None, force=True)  # mmengine warns of the method of this process
    cfg = load(settings)
    if kind == KINDS[0]:
        make_stock(cfg.model)
    runner = Runner.from_cfg(cfg)
    clock = Clock(runner.model, settings['warm_up'])
    runner.register_hook(clock, 'VERY_LOW')
    runner.train()
    total = sum(clock.seconds)
    cuda = torch.cuda.is_available()
    return {
        'iteration_seconds': float(np.median(clock.seconds)),
        'iterations_per_second': len(clock.seconds) / total,
        'data_share': sum(clock.data_seconds) / total,
        'loss_share': sum(clock.loss_seconds) / total,
        'peak_mib': torch.cuda.max_memory_allocated() / measure.MIB if cuda else measure.peak_memory_of_this_process(),
    }


def run(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    data = measure.in_fresh_process(make_data, folder / 'data', args.images, args.classes)
    settings = {**vars(args), **data, 'data': str(folder / 'data'), 'work_dir': str(folder / 'work')}
    rows = []
    for amp in (False, True) if torch.cuda.is_available() else (False,):
        rounds: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        for turn in range(args.rounds):
            for kind in KINDS if turn % 2 else KINDS[::-1]:
                figures = measure.in_fresh_process(train, kind, {**settings, 'amp': amp})
                rounds[kind].append(figures)
                speed = f'{figures["iterations_per_second"]:.2f} iterations/s'
                print(f'round {turn + 1}, {kind}, {"AMP" if amp else "fp32"}: {speed}', flush=True)
        for kind, several in rounds.items():
            best = min(several, key=lambda figures: figures['iteration_seconds'])
            rows.append({'kind': kind, 'amp': amp, **data, **best})
    return rows


def show(rows: list[dict[str, Any]], args: argparse.Namespace, device: str) -> None:
    stock = {row['amp']: row['iteration_seconds'] for row in rows if row['kind'] == KINDS[0]}
    table = [
        (
            row['kind'],
            'AMP' if row['amp'] else 'fp32',
            f'{row["iterations_per_second"]:,.2f}',
            f'{1e3 * row["iteration_seconds"]:,.0f}',
            f'{row["iteration_seconds"] / stock[row["amp"]] - 1:+.1%}',
            f'{row["peak_mib"]:,.0f}',
            f'{row["data_share"]:.1%}',
            f'{row["loss_share"]:.2%}',
        )
        for row in rows
    ]
    name = Path(args.config).stem if args.config else 'Faster R-CNN R-50-FPN'
    title = f'{name}, {rows[0]["classes"]} classes, {args.batch} x {args.scale[1]} x {args.scale[0]}, {device}'
    columns = ('', '', 'iterations/s', 'ms (median)', 'of stock', 'peak MiB', 'data', 'loss')
    measure.show(title, columns, table)


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows = run(args, Path(temporary))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {torch.get_num_threads()} threads'
    show(rows, args, device)
    results = {'machine': measure.machine(), 'device': device, 'scale': args.scale, 'batch': args.batch, 'train': rows}
    measure.write_json(args.out, results)
    print(f'{args.out}: the same as JSON')


if __name__ == '__main__':
    main()
