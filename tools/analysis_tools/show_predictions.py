"""Draws predictions beside ground truth: the classes with the lowest AP, and their images with the worst mistakes.

    python tools/analysis_tools/show_predictions.py --store data/openimages/validation \
        --predictions work_dirs/mine/predictions --out work_dirs/mine/mistakes

One sheet per class. The mistakes of an image are its missed objects plus the scores of its false positives, by the
rules of the challenge metric. Detections below --score are not counted. --class draws one class, by name or MID.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.average_precision import average_precision, count_positives
from mmoid.openimages.metric.evaluator import PROTOCOLS, Evaluator, Protocol
from mmoid.openimages.metric.worst_images import count_mistakes
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.progress import progress_bars
from mmoid.visualization import draw_mistakes, save


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--store', required=True, help='folder made by tools/dataset_converters/prepare_openimages.py')
    parser.add_argument('--predictions', required=True, help='folder of tools/test.py --out or tools/misc/ensemble.py')
    parser.add_argument('--class', dest='label', help='draw this class alone: its name or MID')
    parser.add_argument('--classes', type=int, default=10, help='classes of lowest AP (default: %(default)s)')
    parser.add_argument('--number', type=int, default=6, help='images of each class (default: %(default)s)')
    parser.add_argument(
        '--score', type=float, default=0.3, help='least score that counts here, not for AP (default: %(default)s)'
    )
    parser.add_argument('--protocol', choices=PROTOCOLS, default='challenge', help='rules (default: %(default)s)')
    parser.add_argument('--iou', type=float, default=0.5, help='least IoU of a true positive (0.5)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/mistakes'), help='folder (default: %(default)s)')
    return parser.parse_args()


def positions(predictions: PredictionStore, store: AnnotationStore) -> np.ndarray:
    """(N,) index in the store of each image of the predictions."""
    if predictions.label_names != store.label_names:
        raise AnnotationError(f'{predictions.path}: has other classes than {store.path}, or another order of them')
    index = {name: i for i, name in enumerate(store.image_ids())}
    missing = [name for name in predictions.image_ids() if name not in index]
    if missing:
        raise AnnotationError(f'{predictions.path}: image {missing[0]!r} is not in {store.path}')
    return np.array([index[name] for name in predictions.image_ids()], dtype=np.int64)


def chosen_classes(name: str | None, store: AnnotationStore, ap: np.ndarray, number: int) -> list[int]:
    """Class indices in the order in which they are drawn."""
    if name is None:
        order = np.argsort(ap, kind='stable')  # NaN, without ground truth, comes last
        return order[~np.isnan(ap[order])][:number].tolist()
    return store.classes.indices([name], '--class').tolist()


def main() -> None:
    args = parse_args()
    try:
        store, predictions = AnnotationStore(args.store), PredictionStore(args.predictions)
        protocol = Protocol(args.protocol, iou_threshold=args.iou)
        evaluator = Evaluator(annotations_of_store(store), protocol)
        truth = evaluator.ground_truth
        image = positions(predictions, store)[predictions.image_of_detection()]
        matches = evaluator.match(image, predictions.label, predictions.score, predictions.box)
        ap = average_precision(matches, count_positives(truth, protocol.group_of_weight))
        mistakes = count_mistakes(truth, matches, protocol.group_of_weight, args.score)
        labels = chosen_classes(args.label, store, ap, args.classes)
        sheet = Column('sheet', overflow='fold')
        table = Table('class', 'AP', 'images with mistakes', 'missed', 'false, scores', sheet, title=str(args.out))
        with progress_bars() as progress:
            for rank, label in enumerate(labels):
                rows = np.flatnonzero((mistakes.label == label) & (mistakes.cost > 0))
                counts = [f'{len(rows):,}', f'{mistakes.missed[rows].sum():,g}', f'{mistakes.false[rows].sum():,.1f}']
                name, file = store.class_names[label], ''
                if len(rows):
                    title = f'{name}: AP {ap[label]:.3f}, the worst of {counts[0]} images with mistakes'
                    images = mistakes.worst_images(label, args.number).tolist()
                    figure = draw_mistakes(store, truth, predictions, label, images, title, args.score, args.iou)
                    file = f'{rank:03d}-{re.sub(r"[^0-9A-Za-z]+", "-", name)}.png'
                    save(figure, args.out / file, dpi=130)
                table.add_row(name, f'{ap[label]:.4f}', *counts, file)
                progress('drawing', rank + 1, len(labels))
    except (AnnotationError, ValueError, OSError) as error:
        sys.exit(f'error: {error}')
    Console().print(table)


if __name__ == '__main__':
    main()
