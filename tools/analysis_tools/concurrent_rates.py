r"""Counts the concurrent rates r_ij of a store: how often an object of class i is also labelled j (Sec. 4.1.1).

    python tools/analysis_tools/concurrent_rates.py data/openimages/train --out data/openimages/concurrent_rates.npz

Make them from the store that you train on: their order of classes is the order of that store. Annotations do not tell
which classes annotators mix up at random (torch and flashlight): nobody labels one object with both. A trained model
does. Between the stages, or before you test, predict some of the training images and add these pairs with r_ij = 1:

    python tools/test.py CONFIG CHECKPOINT --out work_dirs/train_predictions \
        --cfg-options test_dataloader.dataset.ann_file=STORE test_evaluator.ann_file=STORE
    python tools/analysis_tools/concurrent_rates.py STORE --predictions work_dirs/train_predictions --out rates.npz
"""

import argparse
import sys

import numpy as np
from scipy.sparse import csr_array

from mmoid.openimages.predictions.csv_files import open_predictions
from mmoid.openimages.statistics.concurrent_rates import count_by_threshold, save_rates
from mmoid.openimages.statistics.confusion import count_confusion
from mmoid.openimages.statistics.store_statistics import COMPARED
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.command_line import exit_on_error, tool_parser
from mmoid.utils.progress import print_counts, print_table, progress_bars


def pairs_mixed_up(args: argparse.Namespace, store: AnnotationStore, rates: csr_array) -> np.ndarray:
    """(C, C) bool, symmetric; prints the pairs, the surest first."""
    with progress_bars() as progress:
        predictions = open_predictions(args.predictions, store.classes)
        confusion = count_confusion(store, predictions, progress=progress)
    print_counts(args.predictions, confusion.left_out)
    ratio, scores, objects = confusion.interchangeability, confusion.mean_scores, confusion.objects
    related = store.hierarchy.ancestor_matrix | store.hierarchy.ancestor_matrix.T
    mixed = (ratio >= args.least) & ~related
    pairs = sorted(np.argwhere(np.triu(mixed)), key=lambda pair: -ratio[tuple(pair)])
    rows, names = [], store.class_names
    for i, j in pairs[: args.top]:
        figures = (f'{rates[i, j]:.2f}', f'{scores[i, j]:.2f} {scores[j, j]:.2f}', f'{ratio[i, j]:.2f}')
        rows.append((names[i], names[j], f'{objects[i]:,} {objects[j]:,}', *figures))
    columns = ('class i', 'class j', 'objects', 'annotated r_ij', 'score of j on i, on j', 'ratio')
    print_table(rows, *columns, title='Classes that annotators mix up, by the model')
    return mixed


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('store', help='folder made by tools/dataset_converters/prepare_openimages.py')
    parser.add_argument('--out', required=True, help='.npz file for ConcurrentSoftmaxLoss(concurrent_rates=...)')
    parser.add_argument('--iou', type=float, default=0.9, help='lowest IoU of boxes on one object (default: 0.9)')
    compare = 'other thresholds to print counts for (default: 0.9 0.8 0.7 0.5); without values: none'
    parser.add_argument('--compare-iou', type=float, nargs='*', default=COMPARED, metavar='IOU', help=compare)
    parser.add_argument('--top', type=int, default=15, help='pairs of classes to print (default: 15)')
    parser.add_argument('--predictions', help='of tools/test.py --out on the store, or a CSV: adds mixed-up pairs')
    least = 'two classes are mixed up if each scores at least this share of the own score on the other (default: 0.9)'
    parser.add_argument('--least', type=float, default=0.9, help=least)
    args = parser.parse_args()
    with exit_on_error():
        if not 0 < args.least <= 1:
            raise ValueError(f'--least must be above 0 and at most 1, got {args.least:g}')
        store = AnnotationStore(args.store)
        if not store.num_boxes:
            raise ValueError(f'{args.store}: has no boxes to count labels of')
        names = store.class_names
        with progress_bars() as progress:
            level, *others = count_by_threshold(store, [args.iou, *args.compare_iou], progress)
        if others:
            rows = []
            for other in others:
                most = [f'{names[i]}, {names[j]}' for i, j, _ in other.concurrence.top_pairs(1)]
                counts = [f'{count:,}' for count in (other.pairs, other.boxes, other.label_pairs)]
                rows.append((f'{other.iou_threshold:g}', *counts, *most))
            columns = ('IoU', 'pairs of boxes', 'boxes in them', 'pairs of classes', 'most frequent')
            print_table(rows, *columns, title='Boxes with different labels on one object')
        rates, pairs = level.concurrence.rates, ''
        rows = [
            (names[i], names[j], f'{together:,}', f'{rates[i, j]:.3f}', f'{rates[j, i]:.3f}')
            for i, j, together in level.concurrence.top_pairs(args.top)
        ]
        title = f'Most frequent label pairs at IoU >= {args.iou:g}'
        print_table(rows, 'class i', 'class j', 'objects with both', 'r_ij', 'r_ji', title=title)
        if args.predictions:
            mixed = pairs_mixed_up(args, store, rates)
            rates = csr_array(np.where(mixed, 1, rates.toarray()))
            pairs = f', {mixed.sum() // 2} pairs of classes mixed up'
        save_rates(args.out, rates, store.label_names)
        print(f'{args.out}: rates of {store.num_classes} classes, objects at IoU >= {args.iou:g}{pairs}')
        if not rates.nnz:
            warning = 'no object has two labels, so all rates are 0 and the loss is the softmax loss'
            print(f'warning: {warning}', file=sys.stderr)
        print(f'Next: train or test with loss_cls.concurrent_rates={args.out}')
