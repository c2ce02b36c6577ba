"""Stock one-stage detectors beside the same detectors on label sets, on the quickstart's world.

    PYTHONPATH=tools python tools/reproduction/dense_heads.py --seeds 3    # resumable: run it again after a kill

Both have the recipes of configs/label_sets, 15 epochs of class-aware sampling, and 1,500 validation images. Detections
are added to the ancestors of their class, with NMS. Results are in docs/reproduction/dense-heads.json; the table is
printed at the end.
"""

import json
from itertools import product

import numpy as np
from mmengine.config import Config
from reproduce import RESULTS, mean_and_error
from reproduction.worlds import ROOT, World, read_json, run_training, write_json

from mmoid.utils.command_line import tool_parser

RECIPES = {  # recipe, type of the stock head, its loss
    'RetinaNet': (
        'retinanet_r18-small_fpn_concurrent-focal_2xb4-cas-5e_synthetic.py',
        'RetinaHead',
        dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25),
    ),
    'RTMDet': (
        'rtmdet-small_concurrent-quality-focal_2xb4-cas-5e_synthetic.py',
        'RTMDetSepBNHead',
        dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0),
    ),
}
FILE = RESULTS / 'dense-heads.json'
EPOCHS = 15  # after the 5 of the recipes, two seeds of RTMDet differ by nine points


def config(world: World, family: str, stock: bool, seed: int) -> Config:
    recipe, head, loss = RECIPES[family]
    cfg = world.load_config(ROOT / 'configs/label_sets' / recipe, seed)
    if stock:
        cfg.model.bbox_head.type, cfg.model.bbox_head.loss_cls = head, loss
    else:
        own = dict(concurrent_rates=str(world.annotated_rates()), hierarchy=str(world.store('train')))
        cfg.model.bbox_head.loss_cls.update(own)
    cfg.val_evaluator.expand_detections = stock
    cfg.train_cfg.max_epochs = EPOCHS
    cfg.param_scheduler[1].milestones = [EPOCHS * 3 // 5, EPOCHS * 4 // 5]
    if family == 'RetinaNet':
        cfg.optim_wrapper.optimizer.lr = 0.01
    return cfg


def train_and_test(world: World, family: str, stock: bool, seed: int) -> float:
    """The mAP after the last epoch."""
    work = world.folder / f'{family}-{"stock" if stock else "label-sets"}-{seed}'
    run_training(config(world, family, stock, seed), work)
    scalars = max(work.glob('*/vis_data/scalars.json'), key=lambda file: file.stat().st_mtime).read_text().splitlines()
    return next(row['openimages/mAP'] for row in map(json.loads, reversed(scalars)) if 'openimages/mAP' in row)


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('--seeds', type=int, default=3, help='trainings of each detector (default: %(default)s)')
    seeds = range(parser.parse_args().seeds)
    world, kinds = World('quickstart'), ('stock', 'label sets')
    stored = read_json(FILE)
    for seed, family, kind in product(seeds, RECIPES, kinds):
        key = f'{family}, {kind}, seed {seed}'
        if key not in stored:
            stored[key] = {'mAP': train_and_test(world, family, kind == 'stock', seed)}
            write_json(FILE, stored)
            print(f'{key}: {stored[key]["mAP"]:.4f}', flush=True)
    print('| detector | stock | label sets | difference |\n| --- | ---: | ---: | ---: |')
    for family in RECIPES:
        stock, ours = 100 * np.array(
            [[stored[f'{family}, {kind}, seed {seed}']['mAP'] for seed in seeds] for kind in kinds]
        )
        figures = (mean_and_error(stock), mean_and_error(ours), mean_and_error(ours - stock, sign='+'))
        print(f'| {family} | {" | ".join(figures)} |')
