r"""Evaluates the predictions of any detector with the official metric.

    python tools/analysis_tools/evaluate_predictions.py --boxes challenge-2019-validation-detection-bbox.csv \
        --labels challenge-2019-validation-detection-human-imagelabels.csv \
        --classes challenge-2019-classes-description-500.csv --hierarchy challenge-2019-label500-hierarchy.json \
        --predictions predictions.csv --out figures.json

With a prepared split its annotations need no parsing:

    python tools/analysis_tools/evaluate_predictions.py --store data/openimages/validation \
        --predictions work_dirs/predictions

Predictions are a CSV file (ImageID,LabelName,Score,XMin,XMax,YMin,YMax, or ImageId,PredictionString as the challenge
takes them; .csv.gz too), or a folder of tools/test.py --out or tools/misc/ensemble.py. Coordinates are fractions of the
image size.
"""

import math

import numpy as np
from rich.text import Text

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric.annotations import annotations_of_store, read_annotations
from mmoid.openimages.metric.class_groups import train_image_counts
from mmoid.openimages.metric.evaluator import PROTOCOLS, Protocol, evaluate_predictions
from mmoid.openimages.metric.result import Evaluation
from mmoid.openimages.predictions.csv_files import open_predictions
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.summary import Summary
from mmoid.utils.command_line import exit_on_error, tool_parser
from mmoid.utils.progress import print_table, progress_bars


def print_classes(evaluation: Evaluation, top: int) -> None:
    known = np.flatnonzero(~np.isnan(evaluation.ap))
    order = known[np.argsort(-evaluation.ap[known], kind='stable')]
    rows = []
    for rank, label in enumerate(order):
        if rank < top or rank >= len(order) - top:
            counts = (evaluation.positives[label], evaluation.true_positives[label], evaluation.scored[label])
            name, ap = evaluation.classes.display_names[label], f'{evaluation.ap[label]:.4f}'
            rows.append((name, ap, *(f'{count:,g}' for count in counts)))
        elif rank == top:
            rows.append(('...',))
    print_table(rows, 'class', 'AP', 'positives', 'found', 'counted', title='AP by class')


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('--predictions', required=True, help='CSV file or folder')
    group = parser.add_argument_group('annotations', 'a prepared store, or the official files')
    group.add_argument('--store', help='folder made by tools/dataset_converters/prepare_openimages.py')
    group.add_argument('--boxes', help='box CSV')
    group.add_argument('--labels', help='human-verified image-level labels CSV; the challenge metric uses them')
    group.add_argument('--classes', help='class descriptions CSV')
    group.add_argument('--hierarchy', help='hierarchy JSON; --protocol v2 does not need it')
    group.add_argument('--train', help='training split, for groups by frequency: a store, or a CSV LabelName,images')
    group = parser.add_argument_group('rules')
    protocol = 'challenge: hierarchy, verified classes only, group-of weight 1 (default); v2: no hierarchy, weight 0'
    group.add_argument('--protocol', choices=PROTOCOLS, default='challenge', help=protocol)
    expand = 'add the ancestors of every detection first; the official evaluator does not'
    group.add_argument('--expand-detections', action='store_true', help=expand)
    nms = 'IoU threshold of the NMS after --expand-detections (default: %(default)s); 0: no NMS'
    group.add_argument('--ancestor-nms', type=float, metavar='IOU', default=0.5, help=nms)
    group.add_argument('--iou', type=float, default=0.5, help='lowest IoU of a true positive (default: %(default)s)')
    other = 'detections of classes that are not annotated: stop (default), or leave them out'
    group.add_argument('--other-classes', choices=('error', 'drop'), default='error', help=other)
    group = parser.add_argument_group('output')
    group.add_argument('--out', help='write all figures into this JSON file')
    group.add_argument('--table', help='write the figures of each class into this CSV file')
    group.add_argument('--top', type=int, default=5, help='classes of highest and of lowest AP to print (default: 5)')
    args = parser.parse_args()
    given = [name for name in ('boxes', 'labels', 'classes', 'hierarchy') if getattr(args, name) is not None]
    if args.store is not None and given:
        parser.error(f'--store has the annotations already; leave --{", --".join(given)} out')
    missing = [name for name in ('boxes', 'classes') if name not in given]
    if args.store is None and missing:
        parser.error(f'--{", --".join(missing)}: needed, unless --store names a prepared split')
    summary = Summary()
    with exit_on_error():
        protocol = Protocol(args.protocol, args.expand_detections, args.iou, args.ancestor_nms or None)
        with progress_bars() as progress:
            progress('reading', 0, 2)
            if args.store is not None:
                annotations = annotations_of_store(AnnotationStore(args.store))
            else:
                annotations = read_annotations(args.boxes, args.classes, args.hierarchy, args.labels, summary)
            classes, train_images = annotations.classes, None
            if args.train is not None:
                train_images = train_image_counts(args.train, classes.label_names, protocol.is_challenge)
            progress('reading', 1, 2)
            predictions = open_predictions(args.predictions, classes, args.other_classes)
            progress('reading', 2, 2)
            evaluation = evaluate_predictions(
                annotations, predictions, protocol, args.other_classes, progress, train_images
            )
        left_out = {f'left out: {reason}': count for reason, count in evaluation.left_out.items()}
        rows = [
            ('images', f'{evaluation.num_images:,}'),
            ('images without detections', f'{evaluation.num_images_without_detections:,}'),
            ('detections', f'{evaluation.num_detections:,}'),
            *(
                (Text(reason, 'yellow'), Text(f'{count:,}', 'yellow'))
                for reason, count in {**left_out, **evaluation.changed}.items()
            ),
            ('true positives', f'{evaluation.true_positives.sum():,g} of {evaluation.positives.sum():,g}'),
            ('classes with ground truth', f'{(evaluation.positives > 0).sum()} of {len(evaluation.ap)}'),
        ]
        print_table(rows, title=args.predictions)
        for line in summary.lines():
            print(f'annotations: {line}')
        if args.top > 0:
            print_classes(evaluation, args.top)
        rows = [
            (*words, Text(size, justify='right'), Text(value, justify='right'))
            for *words, size, value in evaluation.summary()
        ]
        print_table(rows, title='Groups of classes, objects with several labels')
        print(f'mAP {evaluation.mean_ap:.4f} ({evaluation.description})', flush=True)
        if math.isnan(evaluation.mean_ap):
            raise AnnotationError('no class has ground truth, so there is no mAP')
        for path, write in ((args.out, evaluation.write_json), (args.table, evaluation.write_table)):
            if path is not None:
                write(path)
                print(f'{path}: written')
        if args.store is not None:
            print(f'Next: mmoid show --store {args.store} --predictions {args.predictions}')
