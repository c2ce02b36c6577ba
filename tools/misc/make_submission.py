"""Predictions -> the file that the Open Images challenge takes: ImageId,PredictionString.

    python tools/misc/make_submission.py work_dirs/predictions --out submission.csv --images sample_submission.csv \
        --hierarchy challenge-2019-label500-hierarchy.json --score 0.01 --max-per-image 300

Each image of the list gets a row, with detections or without. The evaluation server adds no ancestors: with --hierarchy
(or --store) and --expand-detections they are added here, for a model that does not predict them itself. The file is
read back and held against the predictions before it takes its name.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions.csv_files import PredictionSet, open_predictions
from mmoid.openimages.predictions.submission import Selection, SubmissionSummary, read_image_list, write_submission
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.progress import progress_bars


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('predictions', help='folder of tools/test.py --out or tools/misc/ensemble.py, or a CSV file')
    parser.add_argument('--out', required=True, help='the submission, .csv or .csv.gz')
    parser.add_argument('--images', help='CSV with a column ImageID or ImageId (the sample submission): the images, in '
                                         'this order; without it those of --store, or of the predictions')  # fmt: skip
    parser.add_argument('--store', help='prepared split: its images and its hierarchy')
    parser.add_argument('--hierarchy', help='hierarchy JSON, for --expand-detections')
    parser.add_argument('--expand-detections', action='store_true', help='add the ancestors of every detection')
    parser.add_argument('--score', type=float, default=0.0, help='least score of a detection (0)')
    parser.add_argument('--max-per-image', type=int, help='best rows of an image that are kept, ancestors counted')
    parser.add_argument('--missing-images', choices=('empty', 'error'), default='empty',
                        help='images of the list that the model was not run on: a row without detections (default), '
                             'or stop')  # fmt: skip
    parser.add_argument('--overwrite', action='store_true', help='replace a file that is there')
    return parser.parse_args()


def hierarchy_of(args: argparse.Namespace, label_names: tuple[str, ...]) -> ClassHierarchy | None:
    if not args.expand_detections:
        return None
    if args.hierarchy is not None:
        return ClassHierarchy.from_json(args.hierarchy, label_names)
    if args.store is None:
        raise AnnotationError('--expand-detections: needs --hierarchy or --store, which hold the hierarchy')
    store = AnnotationStore(args.store)
    return ClassHierarchy(store.metadata['hierarchy'], label_names, source=args.store)


def image_list_of(args: argparse.Namespace, predictions: PredictionSet) -> list[str]:
    if args.images is not None:
        return read_image_list(args.images)
    return AnnotationStore(args.store).image_ids() if args.store is not None else predictions.image_ids()


def require_all(image_ids: list[str], predictions: PredictionSet) -> None:
    missing = set(image_ids) - set(predictions.image_ids())
    if missing:
        first = next(image_id for image_id in image_ids if image_id in missing)
        raise AnnotationError(
            f'{predictions.path}: does not have {len(missing)} of the {len(image_ids)} images, first {first!r}; run '
            'the model on all of them, or let them have no detections (--missing-images empty)'
        )


def print_summary(summary: SubmissionSummary, out: str) -> None:
    table = Table(title=out, show_header=False)
    worth_a_look = ('images_without_predictions', 'other_images')
    titles = {'other_images': 'images of the predictions that are not in the list', 'bytes': 'MB'}
    values = asdict(summary) | {'bytes': round(summary.bytes / 1e6, 1)}
    for name, value in values.items():
        style = 'yellow' if name in worth_a_look and value else None
        table.add_row(titles.get(name, name.replace('_', ' ')), f'{value:,}', style=style)
    Console().print(table)


def main() -> None:
    args = parse_args()
    try:
        if Path(args.out).exists() and not args.overwrite:
            raise AnnotationError(f'{args.out}: exists already; give --overwrite to replace it')
        predictions = open_predictions(args.predictions)
        image_ids = image_list_of(args, predictions)
        if args.missing_images == 'error':
            require_all(image_ids, predictions)
        selection = Selection(args.score, args.max_per_image, hierarchy_of(args, predictions.label_names))
        with progress_bars() as progress:
            summary = write_submission(args.out, predictions, image_ids, selection, progress)
    except (AnnotationError, OSError) as error:
        sys.exit(f'error: {error}')
    print_summary(summary, args.out)
    print('read back: every row as it was meant')


if __name__ == '__main__':
    main()
