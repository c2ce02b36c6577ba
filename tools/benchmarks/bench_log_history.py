"""What mmengine's histories of logged scalars cost a long run, with and without LogHistoryHook.

    python tools/benchmarks/bench_log_history.py        # seconds

For runs of some lengths: time for adding one value to each scalar, as every iteration does, and what the histories
take in memory and in every checkpoint. The scalars are those of a Faster R-CNN of ours.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import measure
import numpy as np

SCALARS = (
    'lr',
    'momentum',
    'data_time',
    'time',
    'grad_norm',
    'loss',
    'loss_rpn_cls',
    'loss_rpn_bbox',
    'loss_cls',
    'loss_bbox',
    'acc',
    'stage',
)
ITERATIONS = (10_000, 100_000, 1_000_000)
ROUNDS = 50
AIM = 1.0


def figures_of(iterations: int, max_length: int | None) -> dict[str, Any]:
    from mmengine.logging import HistoryBuffer, MessageHub

    from mmoid.engine.hooks.log_history import bound_histories

    hub = MessageHub(f'{iterations} {max_length}')
    for name in SCALARS:
        hub.log_scalars[name] = HistoryBuffer(np.random.rand(iterations), np.ones(iterations, dtype=np.int64))

    def iterate() -> None:
        for _ in range(ROUNDS):
            for name in SCALARS:
                hub.update_scalar(name, 1.0)
            if max_length is not None:
                bound_histories(hub, max_length)

    iterate()  # cuts them
    seconds, _ = measure.stopwatch(iterate, repeat=3)
    size = sum(array.nbytes for history in hub.log_scalars.values() for array in history.data)
    return {'milliseconds_per_iteration': 1e3 * seconds / ROUNDS, 'mib': size / measure.MIB}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/benchmarks/log_history.json'), help='figures, as JSON'
    )
    args = parser.parse_args()
    results = {
        kind: {str(iterations): figures_of(iterations, limit) for iterations in ITERATIONS}
        for kind, limit in (('mmengine', None), ('LogHistoryHook', 10_000))
    }
    worst = max(figures['milliseconds_per_iteration'] for figures in results['LogHistoryHook'].values())
    aims = {'an iteration of any run, milliseconds': {'figure': worst, 'below': AIM, 'met': worst < AIM}}
    measure.write_json(args.out, {'machine': measure.machine(), 'histories': results, 'aims': aims})
    rows = [
        (kind, f'{int(iterations):,}', f'{figures["milliseconds_per_iteration"]:.2f}', f'{figures["mib"]:.1f}')
        for kind, runs in results.items()
        for iterations, figures in runs.items()
    ]
    measure.show(f'{len(SCALARS)} logged scalars', ('', 'after iterations', 'ms an iteration', 'MiB'), rows)
    print(f'{args.out}: the same as JSON')


if __name__ == '__main__':
    main()
