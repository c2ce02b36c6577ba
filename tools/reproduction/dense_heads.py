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
KINDS = STOCK, AS_ANNOTATED, WITH_ANCESTORS = 'stock', 'label sets', 'label sets with ancestors'
EPOCHS = 15  # after the 5 of the recipes, two seeds of RTMDet differ by nine points


def config(world: World, family: str, kind: str, seed: int) -> Config:
    recipe, head, loss = RECIPES[family]
    cfg = world.load_config(ROOT / 'configs/label_sets' / recipe, seed)
    if kind == STOCK:
        cfg.model.bbox_head.type, cfg.model.bbox_head.loss_cls = head, loss
    else:
        own = dict(concurrent_rates=str(world.annotated_rates()), hierarchy=str(world.store('train')))
        cfg.model.bbox_head.loss_cls.update(own)
        cfg.model.bbox_head.sets_with_ancestors = kind == WITH_ANCESTORS
    cfg.val_evaluator.expand_detections = kind == STOCK
    cfg.train_cfg.max_epochs = EPOCHS
    cfg.param_scheduler[1].milestones = [EPOCHS * 3 // 5, EPOCHS * 4 // 5]
    if family == 'RetinaNet':
        cfg.optim_wrapper.optimizer.lr = 0.01
    return cfg


def train_and_test(world: World, family: str, kind: str, seed: int) -> float:
    """The mAP after the last epoch."""
    work = world.folder / f'{family}-{kind.replace(" ", "-")}-{seed}'
    run_training(config(world, family, kind, seed), work)
    scalars = max(work.glob('*/vis_data/scalars.json'), key=lambda file: file.stat().st_mtime).read_text().splitlines()
    return next(row['openimages/mAP'] for row in map(json.loads, reversed(scalars)) if 'openimages/mAP' in row)


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('--seeds', type=int, default=3, help='trainings of each detector (default: %(default)s)')
    seeds = range(parser.parse_args().seeds)
    world, stored = World('quickstart'), read_json(FILE)
    for seed, family, kind in product(seeds, RECIPES, KINDS):
        key = f'{family}, {kind}, seed {seed}'
        if key not in stored:
            stored[key] = {'mAP': train_and_test(world, family, kind, seed)}
            write_json(FILE, stored)
            print(f'{key}: {stored[key]["mAP"]:.4f}', flush=True)
    print(f'| detector | {" | ".join(KINDS)} | label sets - stock |\n| --- |{" ---: |" * 4}')
    for family in RECIPES:
        mean_ap = [[100 * stored[f'{family}, {kind}, seed {seed}']['mAP'] for seed in seeds] for kind in KINDS]
        cells = [mean_and_error(np.array(values)) for values in mean_ap]
        difference = mean_and_error(np.subtract(mean_ap[1], mean_ap[0]), sign='+')
        print(f'| {family} | {" | ".join([*cells, difference])} |')
