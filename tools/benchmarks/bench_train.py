"""Measures speed, memory and the share of data loading of a real training, beside mmdet's softmax.

    python tools/benchmarks/bench_train.py                                   # R-50, 800 x 1333: for a GPU
    python tools/benchmarks/bench_train.py --scale 320 192 --batch 2 --iterations 10 --warm-up 2     # CPU

mmengine's Runner trains a config on generated images, from scratch. The baseline is the same detector with mmdet's own
box head, RoI sampler and cross-entropy. Each runs in its own process, alternating, without and (on CUDA) with AMP.
*Data* is the share of time waiting for the loader.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner

import mmoid.registry  # noqa: F401
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.synthetic.folder import write_dataset, write_stores
from mmoid.synthetic.world import WorldConfig

ROOT = Path(__file__).parents[2]
BASES = ('models/label-set_faster-rcnn_r50_fpn.py', 'datasets/openimages.py', 'default_runtime.py')
KINDS = ('stock softmax', 'concurrent softmax')
IMAGE_SIZE = 1024
"""Pixels of the longer side of images in Open Images."""


def load(kind: str, settings: dict[str, Any]) -> Config:
    """The config without validation, checkpoints, stages and weights; with mmdet's own parts for the stock kind."""
    os.environ.update(MMOID_DATA_ROOT=settings['data'], MMOID_NUM_CLASSES=str(settings['classes']))
    if settings['config'] is None:
        cfg = Config.fromstring(f'_base_ = {[str(ROOT / "configs/_base_" / base) for base in BASES]}', '.py')
    else:
        cfg = Config.fromfile(settings['config'])
    model, loader = cfg.model, cfg.train_dataloader
    model.backbone.update(init_cfg=None, frozen_stages=-1, norm_eval=False)
    if kind == KINDS[0]:
        model.roi_head.bbox_head.type = 'Shared2FCBBoxHead'
        model.roi_head.bbox_head.loss_cls = dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)
        model.train_cfg.rcnn.sampler.type = 'RandomSampler'
    workers = settings['workers']
    loader.update(batch_size=settings['batch'], num_workers=workers, persistent_workers=workers > 0)
    loader.update(sampler=dict(type='InfiniteSampler', shuffle=True), batch_sampler=None)
    for transform in loader.dataset.pipeline:
        if transform.type == 'Resize':
            transform.scale = tuple(settings['scale'])
    wrapper = 'AmpOptimWrapper' if settings['amp'] else 'OptimWrapper'
    validation = [f'{mode}_{part}' for mode in ('val', 'test') for part in ('dataloader', 'cfg', 'evaluator')]
    cfg.update(
        **dict.fromkeys(validation),
        custom_hooks=[],
        param_scheduler=None,
        default_hooks=dict(checkpoint=None, logger=None),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=settings['warm_up'] + settings['iterations']),
        optim_wrapper=dict(type=wrapper, optimizer=dict(type='SGD', lr=1e-4)),
        work_dir=settings['work_dir'],
        log_level='ERROR',
    )
    return cfg


def train(kind: str, settings: dict[str, Any]) -> dict[str, float]:
    """Figures of one training."""
    torch.multiprocessing.set_start_method(None, force=True)  # mmengine warns of the method of this process
    runner = Runner.from_cfg(load(kind, settings))
    runner.train()
    seconds, waiting = (
        runner.message_hub.get_scalar(f'train/{name}').data[0][settings['warm_up'] :] for name in ('time', 'data_time')
    )
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / measure.MIB
    else:
        peak = measure.memory_of_this_process()['peak']
    return {
        'iterations/s': float(1 / seconds.mean()),
        'ms (median)': 1e3 * float(np.median(seconds)),
        'peak MiB': peak,
        'waiting for data, %': 100 * float(waiting.sum() / seconds.sum()),
    }


if __name__ == '__main__':
    parser = measure.command_line(__doc__, 'train')
    parser.add_argument('config', nargs='?', help='config with label sets and MMOID_DATA_ROOT; default: R-50-FPN')
    parser.add_argument('--scale', type=int, nargs=2, default=(1333, 800), help='longer and shorter side, pixels')
    parser.add_argument('--batch', type=int, default=2, help='images per iteration')
    parser.add_argument('--workers', type=int, default=2, help='workers of the data loader')
    parser.add_argument('--iterations', type=int, default=200, help='iterations that are measured')
    parser.add_argument('--warm-up', type=int, default=20, help='iterations before them')
    parser.add_argument('--rounds', type=int, default=2, help='trainings of each detector, in turn')
    parser.add_argument('--images', type=int, default=64, help='generated images')
    parser.add_argument('--classes', type=int, default=40, help='leaf classes of the generated world')
    args = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary, 'data')
        world = WorldConfig(num_train=args.images, num_validation=1, image_size=IMAGE_SIZE, num_classes=args.classes)
        write_dataset(data, world)
        write_stores(data)
        settings = {**vars(args), 'data': str(data), 'work_dir': str(data / 'work')}
        settings['classes'] = AnnotationStore(data / 'train').num_classes
        for amp in (False, True) if torch.cuda.is_available() else (False,):
            rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
            for turn in range(args.rounds):
                for kind in KINDS if turn % 2 else KINDS[::-1]:
                    figures = measure.in_fresh_process(train, kind, {**settings, 'amp': amp})
                    rounds[kind].append(figures)
                    print(f'round {turn + 1}, {kind}: {figures["iterations/s"]:.2f} iterations/s', flush=True)
            best = [min(rounds[kind], key=lambda figures: figures['ms (median)']) for kind in KINDS]
            for kind, figures in zip(KINDS, best):
                ratio = figures['ms (median)'] / best[0]['ms (median)']
                rows[f'{kind}, {"AMP" if amp else "fp32"}'] = {**figures, 'of stock': ratio}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {torch.get_num_threads()} threads'
    name = Path(args.config).stem if args.config else 'Faster R-CNN R-50-FPN'
    measure.report(args.out, {f'{name}, {args.batch} x {args.scale[1]} x {args.scale[0]}, {device}': rows})
