"""Concurrent rates r_ij of a store: how often an object of class i is also labelled j (Sec. 4.1.1 of the paper).

    python tools/concurrent_rates.py data/openimages/train --out data/openimages/concurrent_rates.npz

Make them from the store that you train on: their order of classes is the order of that store.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from mmoid.openimages.concurrence import Concurrence, count_concurrence, save_rates
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.store import AnnotationStore


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('store', help='folder made by tools/prepare_openimages.py')
    parser.add_argument('--out', required=True, help='.npz file for ConcurrentSoftmaxLoss(concurrent_rates=…)')
    parser.add_argument('--iou', type=float, default=0.9, help='boxes that overlap so much are one object (0.9)')
    parser.add_argument('--top', type=int, default=15, help='pairs to print (15)')
    return parser.parse_args()


def print_top_pairs(store: AnnotationStore, concurrence: Concurrence, count: int) -> None:
    table = Table('class i', 'class j', 'objects with both', 'r_ij', 'r_ji', title='Most frequent label pairs')
    rates = concurrence.rates
    for i, j, together in concurrence.top_pairs(count):
        table.add_row(
            store.class_names[i], store.class_names[j], f'{together:,}', f'{rates[i, j]:.3f}', f'{rates[j, i]:.3f}'
        )
    Console().print(table)


def main() -> None:
    args = parse_args()
    try:
        store = AnnotationStore(args.store)
        concurrence = count_concurrence(store, args.iou)
    except (AnnotationError, ValueError) as error:
        sys.exit(f'error: {error}')
    save_rates(args.out, concurrence.rates, store.label_names)
    print_top_pairs(store, concurrence, args.top)
    print(f'{args.out}: rates of {store.num_classes} classes, objects at IoU >= {args.iou:g}')


if __name__ == '__main__':
    main()
