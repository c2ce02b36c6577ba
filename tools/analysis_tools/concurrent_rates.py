"""Concurrent rates r_ij of a store: how often an object of class i is also labelled j (Sec. 4.1.1 of the paper).

    python tools/analysis_tools/concurrent_rates.py data/openimages/train --out data/openimages/concurrent_rates.npz

Make them from the store that you train on: their order of classes is the order of that store. With --predictions they
say instead how often a model gives j to an object annotated i; those of the same split's store:

    python tools/analysis_tools/concurrent_rates.py data/openimages/validation --predictions work_dirs/predictions \
        --out rates.npz
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.statistics.concurrent_rates import OverlapLevel, count_by_threshold, save_rates
from mmoid.openimages.statistics.confusion import Confusion, count_confusion
from mmoid.openimages.store.annotation_store import AnnotationStore


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('store', help='folder made by tools/dataset_converters/prepare_openimages.py')
    parser.add_argument('--out', required=True, help='.npz file for ConcurrentSoftmaxLoss(concurrent_rates=…)')
    parser.add_argument('--iou', type=float, default=0.9, help='boxes that overlap so much are one object (0.9)')
    parser.add_argument(
        '--compare-iou',
        type=float,
        nargs='*',
        default=[0.9, 0.8, 0.7, 0.5],
        metavar='IOU',
        help='thresholds to print beside it (0.9 0.8 0.7 0.5); none: no comparison',
    )
    parser.add_argument('--top', type=int, default=15, help='pairs to print (15)')
    model = parser.add_argument_group('rates from predictions')
    model.add_argument('--predictions', help='folder made by tools/test.py --out; write rates from these')
    model.add_argument('--score', type=float, default=0.5, help='least score of a detection (0.5)')
    model.add_argument('--match-iou', type=float, default=0.5, help='least IoU of a detection and an object (0.5)')
    model.add_argument(
        '--count',
        choices=('confused', 'all'),
        default='confused',
        help='labels predicted that the annotation does not bear out (default), or all labels predicted beside i',
    )
    model.add_argument('--flat', action='store_true', help='count ancestors of annotated labels as confused too')
    return parser.parse_args()


def print_levels(levels: Sequence[OverlapLevel], store: AnnotationStore) -> None:
    columns = ('IoU', 'pairs of boxes', 'boxes in them', 'pairs of classes', 'most frequent')
    table = Table(*columns, title='Boxes with different labels on one object')
    for level in levels:
        top = [f'{store.class_names[i]}, {store.class_names[j]}' for i, j, _ in level.concurrence.top_pairs(1)]
        counts = [f'{value:,}' for value in (level.pairs, level.boxes, level.label_pairs)]
        table.add_row(f'{level.iou_threshold:g}', *counts, *top)
    Console().print(table)


def print_top_pairs(level: OverlapLevel, others: Sequence[OverlapLevel], names: Sequence[str], count: int) -> None:
    title = f'Most frequent label pairs at IoU >= {level.iou_threshold:g}'
    top = Table('class i', 'class j', 'objects with both', 'r_ij', 'r_ji', title=title)
    levels = Table('classes i, j', *(f'{other.iou_threshold:g}' for other in others), title='r_ij and r_ji by IoU')
    rates = level.concurrence.rates
    other_rates = [other.concurrence.rates for other in others]
    for i, j, together in level.concurrence.top_pairs(count):
        top.add_row(names[i], names[j], f'{together:,}', f'{rates[i, j]:.3f}', f'{rates[j, i]:.3f}')
        levels.add_row(f'{names[i]}, {names[j]}', *(f'{other[i, j]:.2f} {other[j, i]:.2f}' for other in other_rates))
    Console().print(top)
    if others:
        Console().print(levels)


def print_confusion(confusion: Confusion, names: Sequence[str], count: int) -> None:
    table = Table('annotated i', 'predicted j', 'objects', 'c_ij', 'c_ji', title='Most frequent confusions')
    rates = confusion.rates
    for i, j, objects in confusion.top_pairs(count):
        table.add_row(names[i], names[j], f'{objects:,}', f'{rates[i, j]:.3f}', f'{rates[j, i]:.3f}')
    Console().print(table)


def rates_of_annotations(args: argparse.Namespace, store: AnnotationStore) -> np.ndarray:
    level, *others = count_by_threshold(store, [args.iou, *args.compare_iou])
    if others:
        print_levels(others, store)
    print_top_pairs(level, others, store.class_names, args.top)
    return level.concurrence.rates


def rates_of_predictions(args: argparse.Namespace, store: AnnotationStore) -> np.ndarray:
    confusion = count_confusion(
        store,
        PredictionStore(args.predictions),
        score_threshold=args.score,
        match_iou=args.match_iou,
        same_object_iou=args.iou,
        respect_hierarchy=not args.flat,
    )
    print_confusion(confusion, store.class_names, args.top)
    return confusion.rates if args.count == 'confused' else confusion.concurrent_rates


def main() -> None:
    args = parse_args()
    try:
        store = AnnotationStore(args.store)
        rates = (rates_of_predictions if args.predictions else rates_of_annotations)(args, store)
        save_rates(args.out, rates, store.label_names)
    except (AnnotationError, ValueError, OSError) as error:
        sys.exit(f'error: {error}')
    source = f', from {args.predictions}' if args.predictions else ''
    print(f'{args.out}: rates of {store.num_classes} classes, objects at IoU >= {args.iou:g}{source}')


if __name__ == '__main__':
    main()
