"""Predicts what soft-balance sampling shows of a data set, by λ and number of epochs, without training.

    python tools/analysis_tools/plan_sampling.py data/openimages/train --balance 0 0.7 1 --epochs 7 --out work_dirs/plan

Prints how often images of head, middle and tail classes are seen, and which share of images and boxes is never seen.
--out writes these numbers for every class (classes.csv) and a figure (sampling.png). The numbers are exact
expectations; --count draws with the sampler and counts instead. Formulas: mmoid/openimages/sampling/coverage.py.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Column

from mmoid.openimages.sampling.coverage import ImageLists, SamplingPlan, head_middle_tail, plan_sampling
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.atomic import atomic_write
from mmoid.utils.command_line import exit_on_error, tool_parser
from mmoid.utils.progress import print_table, progress_bars
from mmoid.visualization.figures import draw_sampling_plans, save

COLUMNS = (
    'balance label_name class_name images draws_per_epoch drawn_per_epoch not_drawn_in_one_epoch seen_in_one_epoch '
    'unseen_in_one_epoch seen_in_all_epochs unseen_in_all_epochs'
).split()


def number(value: float) -> str:
    """Three digits that matter, without an exponent."""
    return f'{value:,.0f}' if value >= 100 else f'{value:#.3g}' if value >= 0.001 else f'{value:.5f}'


def write_classes(path: Path, plans: Sequence[SamplingPlan], store: AnnotationStore) -> None:
    with atomic_write(path) as temporary, open(temporary, 'w', newline='', encoding='utf-8') as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for plan in plans:
            one, whole = plan.one_epoch, plan.all_epochs
            columns = (one.draws, one.drawn, one.neglected, one.seen, one.unseen, whole.seen, whole.unseen)
            for label, (name, class_name) in enumerate(zip(store.label_names, store.class_names)):
                figures = [f'{column[label]:.6g}' for column in columns]
                writer.writerow([f'{plan.balance:g}', name, class_name, one.image_counts[label], *figures])


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('store', help='folder made by tools/dataset_converters/prepare_openimages.py')
    balance = 'values of λ to compare: 0 draws classes as often as they occur, 1 all alike (default: 0 0.3 0.5 0.7 1)'
    parser.add_argument('--balance', type=float, nargs='+', default=[0, 0.3, 0.5, 0.7, 1.0], metavar='λ', help=balance)
    parser.add_argument('--epochs', type=int, default=7, help='epochs of soft-balance sampling (default: 7)')
    parser.add_argument('--samples-per-epoch', type=int, help='draws of an epoch (default: the images with boxes)')
    parser.add_argument('--no-expand', action='store_true', help='do not count images for ancestors of their classes')
    parser.add_argument('--count', action='store_true', help='make the real draws and count them')
    seed = 'seed of --count: randomness.seed of the config plus the epochs before the stage (default: 0)'
    parser.add_argument('--seed', type=int, default=0, help=seed)
    parser.add_argument('--out', type=Path, help='folder for classes.csv and sampling.png')
    args = parser.parse_args()
    with exit_on_error():
        store = AnnotationStore(args.store)
        lists, seed = ImageLists.of_store(store, not args.no_expand), args.seed if args.count else None
        with progress_bars() as progress:
            rest = (args.epochs, args.samples_per_epoch, seed, progress)
            plans = [plan_sampling(lists, balance, *rest) for balance in args.balance]

        counts = plans[0].one_epoch.image_counts
        parts = head_middle_tail(counts)
        order = np.concatenate(parts)
        times, unseen = [], []
        for plan in plans:
            name, one, whole = f'{plan.balance:g}', plan.one_epoch, plan.all_epochs
            means = [whole.seen[part].mean() if len(part) else 0 for part in parts]
            times.append((name, *map(number, (*means, whole.seen[order].min(), whole.seen[order].max()))))
            shares = (whole.images_unseen, whole.boxes_unseen, one.images_unseen, one.boxes_unseen)
            unseen.append((name, *(f'{share:.2%}' for share in shares)))
        for title, rows, columns in (
            ('Times an image of a class is seen', times, ('λ', 'head', 'middle', 'tail', 'least', 'most')),
            ('Never seen', unseen, ('λ', 'images', 'boxes', 'images, one epoch', 'boxes, one epoch')),
        ):
            print_table(rows, *(Column(name, justify='right') for name in columns), title=title)
        sizes = ', '.join(f'{len(part)} in the {name}' for name, part in zip(('head', 'middle', 'tail'), parts))
        draws = f'{plans[0].samples_per_epoch:,} draws in each of {plans[0].epochs} epochs'
        head, rarest = (f'{store.class_names[label]} ({counts[label]:,} images)' for label in (order[0], order[-1]))
        print(f'{len(order)} classes with images, {head} to {rarest}: {sizes}; {draws}.')

        if args.out is not None:
            write_classes(args.out / 'classes.csv', plans, store)
            print(args.out / 'classes.csv')
            print(save(draw_sampling_plans(plans), args.out / 'sampling.png'))
        print('Next: set the chosen λ as the balance of SoftBalanceClassAwareSampler in your config and train')
