r"""Draws predictions beside ground truth: the classes with the lowest AP, and their images with the worst mistakes.

    python tools/analysis_tools/show_predictions.py --store data/openimages/validation \
        --predictions work_dirs/mine/predictions --out work_dirs/mine/mistakes

One sheet per class. The mistakes of an image are its missed objects plus the scores of its false positives, by the
rules of the challenge metric. Detections below --score are not counted. --class draws one class, by name or MID.
"""

import re
from pathlib import Path

import numpy as np

from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.average_precision import average_precision, count_positives
from mmoid.openimages.metric.evaluator import PROTOCOLS, Evaluator, Protocol
from mmoid.openimages.metric.mistakes import count_mistakes
from mmoid.openimages.predictions.csv_files import open_predictions
from mmoid.openimages.predictions.prediction_store import Detections, align_predictions
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.command_line import exit_on_error, positive_int, tool_parser
from mmoid.utils.progress import print_counts, print_table, progress_bars
from mmoid.visualization.figures import save
from mmoid.visualization.label_sets import ImageReader, draw_mistakes

if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('--store', required=True, help='folder made by tools/dataset_converters/prepare_openimages.py')
    parser.add_argument('--predictions', required=True, help='folder of tools/test.py --out or ensemble.py, or a CSV')
    parser.add_argument('--class', dest='label', help='draw only this class: its name or MID')
    parser.add_argument('--classes', type=positive_int, default=10, help='classes, lowest AP first (default: 10)')
    parser.add_argument('--number', type=positive_int, default=6, help='images of each class (default: 6)')
    parser.add_argument('--score', type=float, default=0.3, help='lowest score of a mistake (default: 0.3)')
    parser.add_argument('--protocol', choices=PROTOCOLS, default='challenge', help='rules (default: %(default)s)')
    parser.add_argument('--iou', type=float, default=0.5, help='lowest IoU of a true positive (default: 0.5)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/mistakes'), help='folder (default: %(default)s)')
    args = parser.parse_args()
    with exit_on_error():
        store = AnnotationStore(args.store)
        protocol = Protocol(args.protocol, iou_threshold=args.iou)
        evaluator = Evaluator(annotations_of_store(store), protocol)
        truth, weight = evaluator.ground_truth, protocol.group_of_weight
        with progress_bars() as progress:
            progress('reading and matching', 0, 2)
            predictions = open_predictions(args.predictions, store.classes, 'drop')
            predictions, image_of = align_predictions(predictions, store.image_ids(), store.classes, 'drop')
            image = image_of[predictions.image_of_detection()]
            progress('reading and matching', 1, 2)
            matches = evaluator.match(Detections(image, predictions.label, predictions.score, predictions.box))
            ap = average_precision(matches, count_positives(truth, weight))
            mistakes = count_mistakes(truth, matches, weight, args.score)
            progress('reading and matching', 2, 2)
        # NaN, without ground truth, comes last.
        labels = np.argsort(ap, kind='stable')[: min(args.classes, np.count_nonzero(~np.isnan(ap)))].tolist()
        if args.label is not None:
            labels = store.classes.indices([args.label], '--class').tolist()
        if not labels:
            raise ValueError(f'{args.store}: no class has ground truth')
        table, sheets = [], []
        for label in labels:
            name, rows = store.class_names[label], np.flatnonzero((mistakes.label == label) & (mistakes.cost > 0))
            counts = [f'{len(rows):,}', f'{mistakes.missed[rows].sum():,g}', f'{mistakes.false[rows].sum():,.1f}']
            table.append((name, f'{ap[label]:.4f}', *counts))
            if len(rows):
                sheets.append((label, f'{name}: AP {ap[label]:.3f}, the worst of {counts[0]} images with mistakes'))
        print_table(table, 'class', 'AP', 'images with mistakes', 'missed', 'false, scores')
        print_counts(args.predictions, predictions.counts())
        read = ImageReader(store)
        with progress_bars() as progress:
            for rank, (label, title) in enumerate(sheets):
                images = mistakes.worst_images(label, args.number).tolist()
                figure = draw_mistakes(read, truth, predictions, label, images, title, args.score, args.iou)
                name = re.sub(r'[^0-9A-Za-z]+', '-', store.class_names[label])
                print(save(figure, args.out / f'{rank:03d}-{name}.png', dpi=130))
                progress('drawing', rank + 1, len(sheets))
        for path, reason in read.unreadable.items():
            print(f'not readable, drawn grey: {path} ({reason})')
