r"""Compares two sets of predictions: is the difference in mAP more than chance, and where are the errors?

    python tools/analysis_tools/compare_predictions.py work_dirs/a/predictions work_dirs/b/predictions \
        --store data/openimages/validation --train data/openimages/train --out comparison.png

Prints the difference in mAP (second minus first) with a 95 % interval of a paired bootstrap over images, for all
classes and for groups of them; the kinds of errors; and both sets under the challenge, V2 and COCO protocols.
"""

import contextlib
import io

import numpy as np

from mmoid.openimages.metric.annotations import Annotations, annotations_of_store
from mmoid.openimages.metric.average_precision import average_precision, count_positives, mean_average_precision
from mmoid.openimages.metric.class_groups import ClassGroup, class_groups, train_image_counts
from mmoid.openimages.metric.evaluator import Evaluator, Protocol
from mmoid.openimages.metric.matching import Matches
from mmoid.openimages.metric.mistakes import KINDS, bootstrap, error_kinds
from mmoid.openimages.predictions.csv_files import open_predictions
from mmoid.openimages.predictions.prediction_store import Detections, align_predictions
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.command_line import exit_on_error, tool_parser
from mmoid.utils.progress import print_counts, print_table, progress_bars
from mmoid.visualization.figures import draw_comparison, save


def read(path: str, evaluator: Evaluator) -> Detections:
    """Detections on annotated images, of annotated classes."""
    predictions = open_predictions(path, evaluator.annotations.classes, 'drop')
    annotations = evaluator.annotations
    predictions, image_of = align_predictions(predictions, annotations.image_ids, annotations.classes, 'drop')
    print_counts(path, predictions.counts())
    image = image_of[predictions.image_of_detection()]
    return evaluator.with_ancestors(Detections(image, predictions.label, predictions.score, predictions.box))


def official_map(evaluator: Evaluator, matches: Matches) -> float:
    positives = count_positives(evaluator.ground_truth, evaluator.protocol.group_of_weight)
    return mean_average_precision(average_precision(matches, positives))


def coco_map(annotations: Annotations, detections: Detections) -> tuple[float, float]:
    """AP of COCO at IoU 0.5 to 0.95, and at 0.5: boxes as annotated, group-of boxes as crowds, 100 detections."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(box: np.ndarray) -> np.ndarray:  # IoU does not depend on the unit
        return 1000 * np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], axis=1)

    columns = (annotations.image, annotations.label, annotations.is_group_of, xywh(annotations.box))
    image, label, score, box = detections
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            'images': [{'id': k} for k in range(len(annotations.image_ids))],
            'categories': [{'id': k} for k in range(len(annotations.classes))],
            'annotations': [
                dict(id=k, image_id=image, category_id=label, iscrowd=int(crowd), bbox=box, area=box[2] * box[3])
                for k, (image, label, crowd, box) in enumerate(zip(*(column.tolist() for column in columns)), 1)
            ],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(np.column_stack([image, xywh(box), score, label])), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
    precision = np.ma.masked_less(evaluation.eval['precision'][..., 0, -1], 0).mean(axis=(1, 2)).filled(np.nan)
    return float(precision.mean()), float(precision[0])


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('first', help='folder of tools/test.py --out, or a CSV file')
    parser.add_argument('second', help='the other predictions, in either form')
    parser.add_argument('--store', required=True, help='prepared split with the ground truth')
    parser.add_argument('--train', help='training split, for groups by frequency: a store, or a CSV LabelName,images')
    parser.add_argument('--expand-detections', action='store_true', help='add ancestors to the detections, with NMS')
    parser.add_argument('--samples', type=int, default=1000, help='draws of the bootstrap (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the bootstrap (default: %(default)s)')
    parser.add_argument('--score', type=float, default=0.3, help='lowest score of a counted error (default: 0.3)')
    parser.add_argument('--out', help='PNG file for a figure of both comparisons')
    args = parser.parse_args()
    with exit_on_error():
        annotations = annotations_of_store(AnnotationStore(args.store))
        challenge = Evaluator(annotations, Protocol(expand_detections=args.expand_detections))
        truth = challenge.ground_truth
        train_images = None if args.train is None else train_image_counts(args.train, annotations.classes.label_names)
        groups = [ClassGroup('all', 'classes with ground truth', np.arange(len(annotations.classes)))]
        groups += class_groups(annotations, train_images)
        sides, matched = [], []
        with progress_bars() as progress:
            for done, path in enumerate((args.first, args.second)):
                progress('reading and matching', done, 2)
                sides.append(read(path, challenge))
                matched.append(challenge.match(sides[-1]))
            progress('reading and matching', 2, 2)
            labels = [group.labels for group in groups]
            differences = bootstrap(truth, *matched, labels, samples=args.samples, seed=args.seed, progress=progress)
        rows = [
            (group.name, group.meaning, f'{found.value:+.4f}', f'{found.low:+.4f} to {found.high:+.4f}')
            for group, found in zip(groups, differences)
        ]
        title = f'Paired bootstrap, {args.samples} draws of images'
        print_table(rows, 'mAP', 'of', 'second - first', '95 % interval', title=title)

        counts = []
        for side in sides:
            kinds = error_kinds(annotations, truth, side)
            counts.append(np.bincount(kinds[(kinds >= 0) & (side.score >= args.score)], minlength=len(KINDS)))
        rows = [(*kind, *(f'{count:,}' for count in of_kind)) for kind, *of_kind in zip(KINDS.items(), *counts)]
        print_table(rows, 'error', 'a detection', 'first', 'second', title=f'Errors at score {args.score:g} and above')

        v2 = Evaluator(annotations, Protocol('v2'))
        figures = {
            'challenge': [official_map(challenge, one) for one in matched],
            'v2': [official_map(v2, v2.match(side)) for side in sides],
        }
        with progress_bars() as progress:
            coco = []
            for done, side in enumerate(sides):
                progress('COCO protocol', done, 2)
                coco.append(coco_map(annotations, side))
            progress('COCO protocol', 2, 2)
        figures |= zip(('COCO, IoU 0.5 to 0.95', 'COCO, IoU 0.5'), zip(*coco))
        rows = [(name, *(f'{of:.4f}' for of in pair), f'{pair[1] - pair[0]:+.4f}') for name, pair in figures.items()]
        title = 'The same predictions under other protocols'
        print_table(rows, 'protocol', 'first', 'second', 'difference', title=title)
        if args.out is not None:
            print(save(draw_comparison([group.name for group in groups], differences, list(KINDS), counts), args.out))
