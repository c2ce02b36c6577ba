"""What is in a store: imbalance, several labels on one object, missing labels (Fig. 2 and 3 of the paper).

    python tools/analysis_tools/report_openimages.py data/openimages/train --out work_dirs/report

Writes one HTML page that needs no other file, its figures as PNG files beside it, and prints the headline numbers.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.statistics.confusion import count_confusion
from mmoid.openimages.statistics.store_statistics import measure
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.progress import progress_bars
from mmoid.visualization import headlines, write_report


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('store', help='folder made by tools/dataset_converters/prepare_openimages.py')
    parser.add_argument('--out', required=True, help='folder for index.html and the figures')
    parser.add_argument('--iou', type=float, default=0.9, help='boxes that overlap so much are one object (0.9)')
    parser.add_argument('--predictions', help='folder made by tools/test.py --out: adds what the model confuses')
    parser.add_argument('--score', type=float, default=0.5, help='least score of a detection (0.5)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        store = AnnotationStore(args.store)
        confusion = None
        with progress_bars() as progress:
            statistics = measure(store, args.iou, progress=progress)
            if args.predictions:
                progress('matching predictions', 0, 1)
                confusion = count_confusion(store, PredictionStore(args.predictions), args.score)
                progress('matching predictions', 1, 1)
            page = write_report(
                args.out,
                store,
                statistics,
                confusion=confusion,
                confusion_source=f'{args.predictions}, score >= {args.score:g}, IoU >= 0.5',
                progress=progress,
            )
    except (AnnotationError, ValueError, OSError) as error:
        sys.exit(f'error: {error}')
    table = Table(title=args.store, show_header=False)
    for name, value in headlines(store, statistics, confusion):
        table.add_row(name, value)
    Console().print(table)
    print(page)


if __name__ == '__main__':
    main()
