"""Run the grids of the paper's Tables 1-4 on worlds with known truth, and compare methods with a paired test.

    python tools/reproduce.py --table 1 --seeds 3           # resumable: run it again after a kill
    python tools/reproduce.py --table 1 --seeds 3 --render  # the tables and figures, from the stored results
    python tools/reproduce.py --table 1 --choose-lr         # first: each method's learning rate, on a seed of its own

A cell trains the classification head on the cached RoIs of a stock detector and takes about a minute on one core. Two
cells run side by side. Results are in docs/reproduction/heads-WORLD.json, everything else in work_dirs/reproduce.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import numpy as np
import torch
from matplotlib import pyplot as plt
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from reproduction.heads import Heads
from reproduction.methods import TABLES, Method
from reproduction.worlds import KNOBS, ROOT, World, write_json

RESULTS = ROOT / 'docs/reproduction'
LEARNING_RATES = (0.01, 0.02, 0.04)
LR_SEED = 1000  # of the learning rate's choice only; the seeds of results start at 0
SIGMOID = ('LabelSetFocalLoss', 'LabelSetBCELoss', 'CoBCELoss')


def key_of(method: Method, seed: int) -> str:
    settings = {**asdict(method), 'paper': None, 'name': None, 'seed': seed}
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()


def run_cell(world: World, method: Method, seed: int, each_epoch: bool) -> dict:
    """Trains and reads a head; Eq. 5 and softmax can read any head that is not of sigmoid scores."""
    torch.set_num_threads(1)
    init_default_scope('mmdet')
    MMLogger.get_instance('reproduce', log_level='WARNING')
    began = time.monotonic()
    heads = _heads(world)
    head, curve = heads.fit(method, seed, each_epoch)
    if method.loss['type'] in SIGMOID:
        readings = {'sigmoid': heads.read(head, 'own', 'annotated')}
    else:
        readings = {
            'softmax': heads.read(head, 'softmax', 'annotated'),
            'Eq. 5, annotated': heads.read(head, 'concurrent', 'annotated'),
            'Eq. 5, pairs': heads.read(head, 'concurrent', 'pairs'),
        }
    for reading in readings.values():  # one AP by class is enough for Fig. 5
        del reading['as predicted']['AP'], reading['ancestors']['AP']
    seconds = round(time.monotonic() - began, 1)
    return dict(method=asdict(method), seed=seed, curve=curve, results=readings, seconds=seconds)


_loaded: dict[World, Heads] = {}


def _heads(world: World) -> Heads:
    """The RoIs of a world, loaded once for each process."""
    if world not in _loaded:
        _loaded[world] = Heads(world)
    return _loaded[world]


def run_grid(world: World, cells: list[tuple[Method, int, bool]], jobs: int, file: Path) -> None:
    """All cells that have no result yet."""
    stored = json.loads(file.read_text()) if file.exists() else {}
    world.rois()
    world.pair_rates()
    missing = [cell for cell in cells if key_of(*cell[:2]) not in stored]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context('spawn')) as pool:
        waiting = {pool.submit(run_cell, world, *cell): cell for cell in missing}
        for done in as_completed(waiting):
            method, seed, _ = waiting[done]
            result = done.result()
            stored[key_of(method, seed)] = result
            write_json(file, stored)
            best = max(reading['ancestors, NMS']['mAP'] for reading in result['results'].values())
            left = len(missing) - sum(future.done() for future in waiting)
            print(f'{method.name}, seed {seed}, lr {method.lr}: {best:.4f}, {result["seconds"]} s; {left} left')


def with_chosen_lr(method: Method, file: Path) -> Method:
    """With the learning rate whose cell of ``--choose-lr`` came out best; as it is where that was not run."""
    stored = json.loads(file.read_text()) if file.exists() else {}
    tried = [replace(method, lr=lr) for lr in LEARNING_RATES]
    results = {other.lr: stored[key_of(other, LR_SEED)] for other in tried if key_of(other, LR_SEED) in stored}
    own = {
        lr: max(reading['ancestors, NMS']['mAP'] for reading in result['results'].values())
        for lr, result in results.items()
    }
    return replace(method, lr=max(own, key=own.__getitem__)) if own else method


def values_of(stored: dict, method: Method, seeds: int, test: str, way: str) -> np.ndarray:
    """(seeds,) mAP in percent."""
    cells = [stored[key_of(method, seed)] for seed in range(seeds) if key_of(method, seed) in stored]
    return 100 * np.array([cell['results'][test][way]['mAP'] for cell in cells if test in cell['results']])


def render_table(stored: dict, methods: list[Method], seeds: int) -> str:
    """Markdown: mean ± standard error beside the paper's figure, and the paired difference to softmax as published."""
    reference = next(
        method for method in methods if method.name in ('softmax, class-aware', 'soft balance 1.0', 'class-aware, 7')
    )
    stock = values_of(stored, reference, seeds, 'softmax', 'ancestors, NMS')
    lines = [
        '| method | paper | lr | tested with | as predicted | ancestors | ancestors, NMS | to stock | seeds |',
        '| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |',
    ]
    for method in methods:
        for test in ('sigmoid', 'softmax', 'Eq. 5, annotated', 'Eq. 5, pairs'):
            ways = [
                values_of(stored, method, seeds, test, way) for way in ('as predicted', 'ancestors', 'ancestors, NMS')
            ]
            if not len(ways[0]):
                continue
            last = ways[-1]
            difference = mean_and_error(last - stock[: len(last)]) if len(last) <= len(stock) else ''
            cells = [f'{way.mean():.2f}' for way in ways[:-1]] + [mean_and_error(last)]
            paper = '' if method.paper is None else f'{method.paper:.2f}'
            row = (method.name, paper, f'{method.lr:g}', test, *cells, difference, str(len(last)))
            lines.append(f'| {" | ".join(row)} |')
    return '\n'.join(lines)


def mean_and_error(values: np.ndarray) -> str:
    error = f' ± {values.std(ddof=1) / len(values) ** 0.5:.2f}' if len(values) > 1 else ''
    return f'{values.mean():.2f}{error}'


def draw_figures(world: World, stored: dict, methods: list[Method], seeds: int) -> list[Path]:
    """Fig. 4: mAP by epoch for each λ. Fig. 5: differences of AP over the classes by number of images."""
    by_balance = {method.stages[0][1]: method for method in methods if not method.beta and len(method.stages) == 1}
    figure, axes = plt.subplots(figsize=(6, 4))
    for balance, method in by_balance.items():
        curves = [stored[key_of(method, s)]['curve'] for s in range(seeds) if key_of(method, s) in stored]
        if curves and curves[0]:
            label = 'non-balance' if balance is None else f'λ = {balance}'
            axes.plot(range(1, len(curves[0]) + 1), 100 * np.mean(curves, axis=0), marker='o', label=label)
    axes.set(xlabel='epoch', ylabel='mAP in %', title='mAP by epoch (Fig. 4 of the paper)')
    axes.legend()
    files = [RESULTS / f'fig4-{world.name}.svg', RESULTS / f'fig5-{world.name}.svg']
    figure.savefig(files[0], bbox_inches='tight')
    counts = np.array([len(images) for images in _heads(world).class_images])
    order = np.argsort(-counts, kind='stable')

    def mean_ap(balance: float | None) -> np.ndarray:
        cells = [stored[key_of(by_balance[balance], seed)] for seed in range(seeds)]
        return np.mean([cell['results']['softmax']['ancestors, NMS']['AP'] for cell in cells], axis=0)[order]

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--table', type=int, choices=sorted(TABLES), required=True, help='of the paper')
    parser.add_argument('--seeds', type=int, default=3, help='heads of each method (default: %(default)s)')
    parser.add_argument('--world', choices=[*KNOBS, 'real'], default='generated', help='data (default: %(default)s)')
    parser.add_argument('--real', type=Path, help='folder of real annotations, classes and hierarchy, for --world real')
    parser.add_argument('--jobs', type=int, default=2, help='cells side by side (default: %(default)s)')
    parser.add_argument('--choose-lr', action='store_true', help='try the learning rates on a seed of their own')
    parser.add_argument('--render', action='store_true', help='print the table and draw the figures; train nothing')
    args = parser.parse_args()
    if (args.world == 'real') != (args.real is not None):
        parser.error('--world real and --real go together')
    world = World(args.world, args.real)
    file, lr_file = RESULTS / f'heads-{world.name}.json', RESULTS / f'learning-rates-{world.name}.json'
    if args.choose_lr:
        tried = [replace(method, lr=lr) for method in TABLES[args.table] for lr in LEARNING_RATES]
        run_grid(world, [(method, LR_SEED, False) for method in tried], args.jobs, lr_file)
        return
    methods = [with_chosen_lr(method, lr_file) for method in TABLES[args.table]]
    if args.render:
        stored = json.loads(file.read_text())
        print(render_table(stored, methods, args.seeds))
        if args.table == 3:
            print(*draw_figures(world, stored, methods, args.seeds))
        return
    cells = [(method, seed, args.table == 3) for seed in range(args.seeds) for method in methods]
    run_grid(world, cells, args.jobs, file)


if __name__ == '__main__':
    main()
