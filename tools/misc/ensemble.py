"""Predictions of several models -> one set of predictions: NMS, soft-NMS, NMW or WBF (weighted boxes fusion).

    python tools/misc/ensemble.py work_dirs/a/predictions work_dirs/b/predictions work_dirs/c/predictions \
        --out work_dirs/ensemble --method wbf --weights 2 1 1

Sets: folders of tools/test.py --out, or CSV files as tools/analysis_tools/evaluate_predictions.py takes them. Images are matched by
ImageID, classes by MID: the models may have other orders of classes, and not all of them. A run that was killed goes on
where it was when it is started again with the same arguments. Needs ensemble-boxes: pip install 'mmoid[ensemble]'.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import load_tree
from mmoid.openimages.predictions.fusion import (
    CONFIDENCE_TYPES,
    METHODS,
    SOFT_NMS_DECAYS,
    EnsembleSummary,
    Fusion,
    match_sets,
    open_sets,
    read_class_weights,
    run_ensemble,
)
from mmoid.openimages.readers.csv_files import read_classes
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.utils.progress import progress_bars

NAMES = {
    'resumed': 'images done by an earlier run',
    'detections_in': 'detections of all sets',
    'detections_out': 'detections fused',
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('predictions', nargs='+', help='folders or CSV files, one for each model')
    parser.add_argument('--out', required=True, help='the new folder of predictions')
    parser.add_argument('--method', choices=METHODS, default='wbf', help='how boxes of a class become one (wbf)')
    parser.add_argument('--iou', type=float, default=0.55, help='boxes that overlap more are one object (0.55)')
    parser.add_argument('--weights', type=float, nargs='+', help='one for each set; without it scores are not scaled')
    parser.add_argument('--class-weights', help='CSV LabelName,<set>,<set>,... or JSON {LabelName: [weights]}: in '
                                                'place of --weights for these classes; 0: no vote on it')  # fmt: skip
    parser.add_argument('--missing', choices=('error', 'drop', 'keep'), default='error',
                        help='images that are not in all sets: stop (default), leave them out, or fuse what there '
                             'is')  # fmt: skip
    parser.add_argument('--skip-score', type=float, default=0.0, help='leave detections below it out first (0)')
    parser.add_argument('--max-per-image', type=int, help='best detections of an image that are kept; default: all')
    parser.add_argument('--workers', type=int, help='processes; default: the number of cores')
    parser.add_argument('--restart', action='store_true', help='throw away what a killed run has done')
    parser.add_argument('--overwrite', action='store_true', help='replace predictions that are there')
    graph = parser.add_argument_group('classes and hierarchy')
    graph.add_argument('--expand-detections', nargs='?', choices=('before', 'after'), const='before',
                       help='add the ancestors of detections: to each set before fusing (default), or to the result, '
                            'where no ancestor then scores below what it is an ancestor of')  # fmt: skip
    graph.add_argument('--hierarchy', help='hierarchy JSON, for --expand-detections')
    graph.add_argument('--classes', help='class descriptions CSV: what the models of CSV files know; without it the '
                                         'classes that each file names')  # fmt: skip
    graph.add_argument('--store', help='prepared split, in place of --hierarchy and --classes')
    wbf = parser.add_argument_group('weighted boxes fusion')
    wbf.add_argument('--confidence', choices=CONFIDENCE_TYPES, default='avg', help='score of a fused box (avg)')
    wbf.add_argument('--allow-overflow', action='store_true', help='with avg: scores above 1 for many boxes')
    soft = parser.add_argument_group('soft-NMS')
    soft.add_argument('--decay', choices=SOFT_NMS_DECAYS, default='gaussian', help='of scores (gaussian)')
    soft.add_argument('--sigma', type=float, default=0.5, help='of the gaussian (0.5)')
    soft.add_argument('--least-score', type=float, default=0.001, help='drop what decays to it (0.001)')
    return parser.parse_args()


def fusion_of(args: argparse.Namespace) -> Fusion:
    return Fusion(
        method=args.method,
        iou_threshold=args.iou,
        skip_score=args.skip_score,
        confidence=args.confidence,
        allows_overflow=args.allow_overflow,
        sigma=args.sigma,
        decay=args.decay,
        least_score=args.least_score,
        most_per_image=args.max_per_image,
    )


def classes_of(args: argparse.Namespace) -> list[tuple[str, str]] | None:
    if args.classes is not None:
        classes = read_classes(args.classes)
        return list(zip(classes.label_names, classes.display_names))
    if args.store is not None:
        store = AnnotationStore(args.store)
        return list(zip(store.label_names, store.class_names))
    return None


def hierarchy_of(args: argparse.Namespace) -> dict | None:
    if args.hierarchy is not None:
        return load_tree(args.hierarchy)
    if args.store is not None:
        return AnnotationStore(args.store).metadata['hierarchy']
    if args.expand_detections is not None:
        raise AnnotationError('--expand-detections: needs --hierarchy or --store, which hold the hierarchy')
    return None


def print_summary(summary: EnsembleSummary, out: str) -> None:
    table = Table(title=out, show_header=False)
    for name, value in asdict(summary).items():
        if name != 'resumed' or value:
            table.add_row(NAMES.get(name, name), f'{value:,}')
    Console().print(table)


def main() -> None:
    args = parse_args()
    out = Path(args.out)
    inputs = out.with_name(f'{out.name}.inputs')
    try:
        fusion = fusion_of(args)
        require_replaceable(out, args.overwrite)
        count = len(args.predictions)
        class_weights = None if args.class_weights is None else read_class_weights(args.class_weights, count)
        with progress_bars() as progress:
            sets = match_sets(
                open_sets(args.predictions, inputs, classes_of(args), progress),
                weights=args.weights,
                class_weights=class_weights,
                missing=args.missing,
                hierarchy=hierarchy_of(args),
                expand=args.expand_detections,
            )
            summary = run_ensemble(
                sets,
                fusion,
                out,
                num_workers=args.workers,
                overwrite=args.overwrite,
                restart=args.restart,
                progress=progress,
            )
    except AnnotationError as error:
        sys.exit(f'error: {error}')
    shutil.rmtree(inputs, ignore_errors=True)
    print_summary(summary, args.out)


if __name__ == '__main__':
    main()
