"""Run the grids of the paper's Tables 1-4 on worlds with known truth, and compare methods with a paired test.

    python tools/reproduce.py --table 1 --seeds 3           # resumable: run it again after a kill
    python tools/reproduce.py --table 1 --seeds 3 --render  # the tables and figures, from the stored results
    python tools/reproduce.py --table 1 --choose-lr         # first: each method's learning rate, on a seed of its own

A cell trains the classification head on the cached RoIs of a stock detector and takes about a minute on one core. Two
cells run side by side. Results are in docs/reproduction/heads-WORLD.json, everything else in work_dirs/reproduce.
"""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import numpy as np
import torch
from matplotlib import pyplot as plt
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from reproduction.heads import Heads, Readings, readings_of_loss
from reproduction.methods import DETECTORS, TABLES, Method
from reproduction.worlds import KNOBS, ROOT, World, read_json, validation_logits, write_json

from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.command_line import tool_parser

RESULTS = ROOT / 'docs/reproduction'
LEARNING_RATES = (0.01, 0.02, 0.04)
LR_SEED = 1000  # of the learning rate's choice only; the seeds of results start at 0
WAYS = ('as predicted', 'ancestors', 'ancestors, NMS')
REFERENCES = (  # the first that a table has
    'softmax, class-aware',
    'soft balance 1.0',
    'class-aware, 7',
    'softmax, soft balance 0.7, negative',
    'softmax, images as they are',
    'softmax',
)


def key_of(method: Method, seed: int) -> str:
    settings = {**asdict(method), 'paper': None, 'name': None, 'seed': seed}
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()


heads_of = cache(Heads)  # the RoIs of a world, loaded once for each process


def run_head(world: World, method: Method, seed: int, each_epoch: bool) -> dict:
    """Trains and tests a head on cached RoIs."""
    heads = heads_of(world)
    head, curve = heads.fit(method, seed, each_epoch)
    return dict(curve=curve, results=heads.read(head, *readings_of_loss(method.loss['type'])))


def run_detector(world: World, method: Method, seed: int) -> dict:
    """Trains and tests a whole detector; the pairs that annotators mix up come from its own detections."""
    image_ids, logits, boxes = validation_logits(world.config(method, seed), world.detector(method, seed))
    readings, pairs = readings_of_loss(method.loss['type']), world.pair_rates(method, seed)
    return dict(results=Readings(world, image_ids).read(readings, logits, boxes, pairs))


def run_cell(cell: Callable[..., dict], world: World, method: Method, seed: int, *options: bool) -> dict:
    torch.set_num_threads(1)
    init_default_scope('mmdet')
    MMLogger.get_instance('reproduce', log_level='WARNING')
    began = time.monotonic()
    result = cell(world, method, seed, *options)
    return dict(method=asdict(method), seed=seed, **result, seconds=round(time.monotonic() - began, 1))


def run_grid(cell: Callable[..., dict], world: World, cells: list[tuple], jobs: int, file: Path) -> None:
    """All cells that have no result yet."""
    stored = read_json(file)
    missing = [options for options in cells if is_missing(stored, *options)]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context('spawn')) as pool:
        waiting = {pool.submit(run_cell, cell, world, *options): options for options in missing}
        try:
            for count, done in enumerate(as_completed(waiting), start=1):
                (method, seed, *_), result = waiting[done], done.result()
                stored[key_of(method, seed)] = result
                write_json(file, stored)
                score = f'{best_map(result):.4f}, {result["seconds"]} s'
                print(f'{method.name}, seed {seed}, lr {method.lr}: {score}; {len(missing) - count} left', flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def is_missing(stored: dict, method: Method, seed: int, each_epoch: bool = False) -> bool:
    """Whether a cell has no result, or lacks the curve that Fig. 4 needs."""
    result = stored.get(key_of(method, seed))
    return result is None or (each_epoch and not result['curve'])


def best_map(result: dict) -> float:
    """The best mAP of a cell, over its readings."""
    return max(reading['ancestors, NMS']['mAP'] for reading in result['results'].values())


def tried_rates(method: Method, file: Path) -> dict[float, float]:
    """Learning rate -> best mAP, of the method's cells of ``--choose-lr``."""
    stored = read_json(file)
    rates = {cell['method']['lr'] for cell in stored.values()}
    keys = {lr: key_of(replace(method, lr=lr), LR_SEED) for lr in rates}
    return {lr: best_map(stored[key]) for lr, key in keys.items() if key in stored}


def rates_to_try(method: Method, file: Path) -> list[float]:
    """The learning rates that are left; beyond the lowest and highest as long as the best one is at an end."""
    tried = tried_rates(method, file)
    left = [lr for lr in LEARNING_RATES if lr not in tried]
    if left:
        return left
    best = max(tried, key=tried.__getitem__)
    return [best / 2] * (best == min(tried)) + [best * 2] * (best == max(tried))


def with_chosen_lr(method: Method, file: Path) -> Method:
    """With the learning rate whose cell of ``--choose-lr`` came out best; as it is where that was not run."""
    tried = tried_rates(method, file)
    return replace(method, lr=max(tried, key=tried.__getitem__)) if tried else method


def values_of(stored: dict, method: Method, seeds: int, reading: str, way: str) -> np.ndarray:
    """(seeds,) mAP in percent; NaN where there is no such cell."""
    cells = [stored.get(key_of(method, seed), {'results': {}})['results'] for seed in range(seeds)]
    return 100 * np.array([cell[reading][way]['mAP'] if reading in cell else np.nan for cell in cells])


def render_table(stored: dict, methods: Sequence[Method], seeds: int) -> str:
    """Markdown: mean ± standard error beside the paper's figure, and the paired difference to softmax as published."""
    by_name = {method.name: method for method in methods}
    reference = next(by_name[name] for name in REFERENCES if name in by_name)
    stock = values_of(stored, reference, seeds, 'softmax', WAYS[-1])
    lines = [
        f'| method | paper | lr | tested with | {" | ".join(WAYS)} | to stock | seeds |',
        '| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |',
    ]
    for method in methods:
        for reading in readings_of_loss(method.loss['type']):
            ways = [values_of(stored, method, seeds, reading, way) for way in WAYS]
            if np.isnan(ways[-1]).all():
                continue
            cells = [f'{np.nanmean(way):.2f}' for way in ways[:-1]] + [mean_and_error(ways[-1])]
            same = method == reference and reading == 'softmax'
            difference = '' if same else mean_and_error(ways[-1] - stock, sign='+')
            paper = '' if method.paper is None else f'{method.paper:.2f}'
            row = (method.name, paper, f'{method.lr:g}', reading, *cells, difference, str(np.isfinite(ways[-1]).sum()))
            lines.append(f'| {" | ".join(row)} |')
    return '\n'.join(lines)


def mean_and_error(values: np.ndarray, sign: str = '') -> str:
    values = values[np.isfinite(values)]
    error = f' ± {values.std(ddof=1) / len(values) ** 0.5:.2f}' if len(values) > 1 else ''
    return f'{values.mean():{sign}.2f}{error}' if len(values) else ''


def draw_figures(world: World, stored: dict, methods: Sequence[Method], seeds: int) -> list[Path]:
    """Fig. 4: mAP by epoch for each λ. Fig. 5: differences of AP over the classes by number of images."""
    by_balance = {method.stages[0][1]: method for method in methods if not method.beta and len(method.stages) == 1}
    keys = {balance: [key_of(method, seed) for seed in range(seeds)] for balance, method in by_balance.items()}
    cells = {balance: [stored[key] for key in of if key in stored] for balance, of in keys.items()}
    figure, axes = plt.subplots(figsize=(6, 4))
    for balance, found in cells.items():
        if found and found[0]['curve']:
            curve = 100 * np.mean([cell['curve'] for cell in found], axis=0)
            label = 'non-balance' if balance is None else f'λ = {balance}'
            axes.plot(range(1, len(curve) + 1), curve, marker='o', label=label)
    axes.set(xlabel='epoch', ylabel='mAP in %', title='mAP by epoch (Fig. 4 of the paper)')
    axes.legend()
    files = [RESULTS / f'fig4-{world.name}.svg', RESULTS / f'fig5-{world.name}.svg']
    figure.savefig(files[0], bbox_inches='tight')
    order = np.argsort(-AnnotationStore(world.store('train')).class_image_counts(), kind='stable')

    def mean_ap(balance: float | None) -> np.ndarray:
        return np.mean([cell['results']['softmax'][WAYS[-1]]['AP'] for cell in cells[balance]], axis=0)[order]

    figure, axes = plt.subplots(figsize=(6, 4))
    for first, second in ((0.7, 1.0), (1.0, None)):
        gap = 100 * np.nan_to_num(mean_ap(first) - mean_ap(second))
        axes.plot(np.cumsum(gap), label=f'λ = {first} over {"non-balance" if second is None else f"λ = {second}"}')
    axes.axhline(0, color='grey', linewidth=0.8)
    axes.set(xlabel='classes, most frequent first', ylabel='cumulative difference of AP in points')
    axes.set_title('Gain by class frequency (Fig. 5 of the paper)')
    axes.legend()
    figure.savefig(files[1], bbox_inches='tight')
    return files


def main() -> None:
    parser = tool_parser(__doc__)
    grid = parser.add_mutually_exclusive_group(required=True)
    table = 'of the paper, with heads on cached RoIs; 0: verified classes; 5: losses with and without balance'
    grid.add_argument('--table', type=int, choices=sorted(TABLES), help=table)
    grid.add_argument('--detectors', action='store_true', help='whole detectors: stock and the defaults')
    parser.add_argument('--seeds', type=int, default=3, help='cells of each method (default: %(default)s)')
    worlds = [*KNOBS, 'real', 'photographs']
    parser.add_argument('--world', choices=worlds, default='generated', help='data (default: %(default)s)')
    parser.add_argument('--real', type=Path, help='folder of real files, for --world real and photographs')
    parser.add_argument('--jobs', type=int, default=2, help='cells side by side (default: %(default)s)')
    parser.add_argument('--choose-lr', action='store_true', help='try the learning rates on a seed of their own')
    parser.add_argument('--render', action='store_true', help='print the table and draw the figures; train nothing')
    args = parser.parse_args()
    if (args.world in KNOBS) != (args.real is None):
        parser.error('--real goes with --world real and photographs')
    if args.choose_lr and args.detectors:
        parser.error('--choose-lr is for --table')
    world = World(args.world, args.real)
    file, lr_file = RESULTS / f'heads-{world.name}.json', RESULTS / f'learning-rates-{world.name}.json'
    methods, cell, options = TABLES.get(args.table, DETECTORS), run_head, (args.table == 3,)
    if args.detectors:
        file, cell, options = RESULTS / f'detectors-{world.name}.json', run_detector, ()
    elif not args.choose_lr:
        methods = tuple(with_chosen_lr(method, lr_file) for method in methods)
    if args.render:
        stored = json.loads(file.read_text())
        print(render_table(stored, methods, args.seeds))
        if args.table == 3:
            print(*draw_figures(world, stored, methods, args.seeds))
        return
    # What several cells need is made once, before they start.
    world.store('train'), world.store('validation'), world.annotated_rates()
    if not args.detectors:
        world.rois(), world.pair_rates()
    if args.choose_lr:
        while tried := [replace(method, lr=lr) for method in methods for lr in rates_to_try(method, lr_file)]:
            run_grid(run_head, world, [(method, LR_SEED, False) for method in tried], args.jobs, lr_file)
    else:
        cells = [(method, seed, *options) for seed in range(args.seeds) for method in methods]
        run_grid(cell, world, cells, args.jobs, file)


if __name__ == '__main__':
    main()
