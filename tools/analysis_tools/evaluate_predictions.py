"""The official metric alone, on files: for the predictions of any detector.

    python tools/analysis_tools/evaluate_predictions.py --boxes challenge-2019-validation-detection-bbox.csv \
        --labels challenge-2019-validation-detection-human-imagelabels.csv \
        --classes challenge-2019-classes-description-500.csv --hierarchy challenge-2019-label500-hierarchy.json \
        --predictions predictions.csv --out figures.json

or, with a prepared split, without parsing its annotations:

    python tools/analysis_tools/evaluate_predictions.py --store data/openimages/validation --predictions work_dirs/predictions

Predictions: a CSV file (ImageID,LabelName,Score,XMin,XMax,YMin,YMax, or ImageId,PredictionString as the challenge takes
them; .gz too), or a folder of tools/test.py --out or tools/misc/ensemble.py. Coordinates are fractions of the image size.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np
from rich.console import Console
from rich.table import Table

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric.annotations import Annotations, annotations_of_store, read_annotations
from mmoid.openimages.metric.class_groups import train_image_counts
from mmoid.openimages.metric.evaluator import evaluate_predictions
from mmoid.openimages.metric.protocol import PROTOCOLS, Protocol
from mmoid.openimages.metric.result import Evaluation, write_json, write_table
from mmoid.openimages.predictions.csv_files import open_predictions
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.progress import progress_bars


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--predictions', required=True, help='CSV file or folder')
    annotations = parser.add_argument_group('annotations', 'a prepared store, or the official files')
    annotations.add_argument('--store', help='folder made by tools/dataset_converters/prepare_openimages.py')
    annotations.add_argument('--boxes', help='box CSV')
    annotations.add_argument('--labels', help='human-verified image-level labels CSV; the challenge counts with them')
    annotations.add_argument('--classes', help='class descriptions CSV')
    annotations.add_argument('--hierarchy', help='hierarchy JSON; --protocol v2 does without')
    annotations.add_argument('--train', help='the training split, for the mAP of head, middle and tail classes: its '
                                             'store, or a CSV with the columns LabelName,images')  # fmt: skip
    rules = parser.add_argument_group('rules')
    rules.add_argument('--protocol', choices=PROTOCOLS, default='challenge',
                       help='challenge: hierarchy, verified classes only, group-of weight 1 (default); v2: none of '
                            'these, weight 0')  # fmt: skip
    rules.add_argument('--expand-detections', action='store_true',
                       help='add the ancestors of every detection first; the official evaluator does not')  # fmt: skip
    rules.add_argument('--iou', type=float, default=0.5, help='least IoU of a true positive (0.5)')
    rules.add_argument('--other-classes', choices=('error', 'drop'), default='error',
                       help='detections of classes that are not annotated: stop (default), or leave out')  # fmt: skip
    output = parser.add_argument_group('output')
    output.add_argument('--out', help='write all figures into this JSON file')
    output.add_argument('--table', help='write the figures of each class into this CSV file')
    output.add_argument('--top', type=int, default=5, help='classes of highest and of lowest AP to print (5)')
    args = parser.parse_args()
    files = {f'--{name}': getattr(args, name) for name in ('boxes', 'labels', 'classes', 'hierarchy')}
    if args.store is not None:
        extra = [option for option, path in files.items() if path is not None]
        if extra:
            parser.error(f'--store holds the annotations already; leave {", ".join(extra)} out')
    else:
        missing = [option for option in ('--boxes', '--classes') if files[option] is None]
        if missing:
            parser.error(f'{", ".join(missing)}: needed, unless --store names a prepared split')
    return args


def load_annotations(args: argparse.Namespace) -> Annotations:
    if args.store is not None:
        return annotations_of_store(AnnotationStore(args.store))
    return read_annotations(args.boxes, args.classes, args.hierarchy, args.labels)


def print_evaluation(evaluation: Evaluation, predictions: str, top: int) -> None:
    table = Table(title=predictions, show_header=False)
    table.add_row('images', f'{evaluation.num_images:,}')
    table.add_row('images without detections', f'{evaluation.num_images_without_detections:,}')
    table.add_row('detections', f'{evaluation.num_detections:,}')
    for why, count in evaluation.left_out.items():
        table.add_row(f'left out: {why}', f'{count:,}', style='yellow')
    table.add_row('true positives', f'{evaluation.true_positives.sum():,g} of {evaluation.positives.sum():,g}')
    table.add_row('classes with ground truth', f'{(evaluation.positives > 0).sum()} of {len(evaluation.ap)}')
    Console().print(table)
    print_classes(evaluation, top)
    print_groups(evaluation)
    print(f'mAP {evaluation.mean_ap:.4f} ({evaluation.description})')


def print_groups(evaluation: Evaluation) -> None:
    table = Table(title='Groups of classes, objects with several labels', show_header=False)
    for column in range(4):
        table.add_column(justify='right' if column > 1 else 'left')
    for row in evaluation.summary():
        table.add_row(*row)
    Console().print(table)


def print_classes(evaluation: Evaluation, top: int) -> None:
    order = np.argsort(-evaluation.ap, kind='stable')
    order = order[~np.isnan(evaluation.ap[order])]
    table = Table('class', 'AP', 'positives', 'found', 'counted', title='AP by class')
    for label in order if len(order) <= 2 * top else [*order[:top], None, *order[len(order) - top :]]:
        if label is None:
            table.add_row('…', '', '', '', '')
            continue
        counts = (evaluation.positives[label], evaluation.true_positives[label], evaluation.scored[label])
        cells = (f'{evaluation.ap[label]:.4f}', *(f'{count:,g}' for count in counts))
        table.add_row(evaluation.class_names[label], *cells)
    if top > 0:
        Console().print(table)


def main() -> None:
    args = parse_args()
    try:
        protocol = Protocol(args.protocol, args.expand_detections, args.iou)
        with progress_bars() as progress:
            progress('reading', 0, 2)
            annotations = load_annotations(args)
            train_images = None
            if args.train is not None:
                train_images = train_image_counts(args.train, annotations.label_names, protocol.is_challenge)
            progress('reading', 1, 2)
            predictions = open_predictions(args.predictions, annotations.label_names, args.other_classes)
            progress('reading', 2, 2)
            evaluation = evaluate_predictions(
                annotations, predictions, protocol, args.other_classes, progress, train_images
            )
        if args.out is not None:
            write_json(args.out, evaluation)
        if args.table is not None:
            write_table(args.table, evaluation)
    except (AnnotationError, ValueError) as error:
        sys.exit(f'error: {error}')
    print_evaluation(evaluation, args.predictions, args.top)
    if math.isnan(evaluation.mean_ap):
        print('No class has ground truth: there is nothing to average.')


if __name__ == '__main__':
    main()
