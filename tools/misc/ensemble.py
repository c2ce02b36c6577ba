r"""Fuses the predictions of several models by NMS, soft-NMS, NMW or WBF (weighted boxes fusion).

    python tools/misc/ensemble.py work_dirs/a/predictions work_dirs/b/predictions work_dirs/c/predictions \
        --out work_dirs/ensemble --method wbf --weights 2 1 1

Sets are folders of tools/test.py --out, or CSV files as tools/analysis_tools/evaluate_predictions.py takes them. Images
are matched by ImageID and classes by MID: the models may have classes in another order, or only some of them. A killed
run resumes when it is started again with the same arguments. Needs ensemble-boxes: pip install 'mmoid[ensemble]'.
"""

from dataclasses import fields

from mmoid.openimages.hierarchy import load_tree
from mmoid.openimages.predictions.csv_files import open_predictions
from mmoid.openimages.predictions.ensemble import (
    CONFIDENCE_TYPES,
    METHODS,
    SOFT_NMS_DECAYS,
    Fusion,
    match_sets,
    read_class_weights,
    run_ensemble,
)
from mmoid.openimages.readers.csv_files import read_classes
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.arrow_folder import require_replaceable
from mmoid.utils.command_line import exit_on_error, tool_parser
from mmoid.utils.progress import print_values, progress_bars

if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('predictions', nargs='+', help='folders or CSV files, one for each model')
    parser.add_argument('--out', required=True, help='new folder for the fused predictions')
    parser.add_argument('--method', choices=METHODS, default='wbf', help='fusion method (default: wbf)')
    iou = 'boxes of a class with a higher IoU are fused (default: 0.55)'
    parser.add_argument('--iou', dest='iou_threshold', metavar='IOU', type=float, default=0.55, help=iou)
    parser.add_argument('--weights', type=float, nargs='+', help='weight of each set (default: all alike)')
    class_weights = 'weights for some classes, 0: no vote; CSV LabelName,<set>,<set>,... or JSON {LabelName: [weights]}'
    parser.add_argument('--class-weights', help=class_weights)
    missing = 'images that are not in all sets: stop (default), leave them out, or fuse the sets that have them'
    parser.add_argument('--missing', choices=('error', 'drop', 'keep'), default='error', help=missing)
    parser.add_argument('--skip-score', type=float, default=0.0, help='drop lower scores before fusing (default: 0)')
    parser.add_argument('--max-per-image', type=int, help='keep only the best of each image (default: all)')
    parser.add_argument('--workers', type=int, help='number of processes (default: the number of cores)')
    parser.add_argument('--restart', action='store_true', help='delete the results of a killed run')
    parser.add_argument('--overwrite', action='store_true', help='replace existing predictions')
    group = parser.add_argument_group('classes and hierarchy')
    expand = 'add the ancestors of detections: to each set before fusing (default), or to the result'
    group.add_argument('--expand-detections', nargs='?', choices=('before', 'after'), const='before', help=expand)
    group.add_argument('--hierarchy', help='hierarchy JSON, for --expand-detections')
    group.add_argument('--classes', help='class descriptions CSV for CSV files (default: the classes that they name)')
    group.add_argument('--store', help='prepared split, in place of --hierarchy and --classes')
    group = parser.add_argument_group('weighted boxes fusion')
    group.add_argument('--confidence', choices=CONFIDENCE_TYPES, default='avg', help='score of a fused box (avg)')
    overflow = 'with avg: allow scores above 1 where many boxes are fused'
    group.add_argument('--allow-overflow', dest='allows_overflow', action='store_true', help=overflow)
    group = parser.add_argument_group('soft-NMS')
    group.add_argument('--decay', choices=SOFT_NMS_DECAYS, default='gaussian', help='how scores decay (gaussian)')
    group.add_argument('--sigma', type=float, default=0.5, help='sigma of the gaussian decay (0.5)')
    group.add_argument('--least-score', type=float, default=0.001, help='drop scores that decay to this (0.001)')
    args = parser.parse_args()
    with exit_on_error():
        fusion = Fusion(**{field.name: getattr(args, field.name) for field in fields(Fusion)})
        require_replaceable(args.out, args.overwrite)
        if args.hierarchy is not None and args.expand_detections is None:
            raise ValueError('--hierarchy is for --expand-detections, which is not given')
        classes, hierarchy = None, None
        if args.store is not None:
            store = AnnotationStore(args.store)
            classes, hierarchy = store.classes, store.metadata['hierarchy']
        if args.classes is not None:
            classes = read_classes(args.classes)
        if args.hierarchy is not None:
            hierarchy = load_tree(args.hierarchy)
        with progress_bars() as progress:
            sets = match_sets(
                [open_predictions(path, classes) for path in args.predictions],
                weights=args.weights,
                class_weights=None if args.class_weights is None else read_class_weights(args.class_weights),
                missing=args.missing,
                hierarchy=hierarchy,
                expand=args.expand_detections,
            )
            options = dict(num_workers=args.workers, overwrite=args.overwrite, restart=args.restart, progress=progress)
            counts = run_ensemble(sets, fusion, args.out, **options)
        print_values(counts, args.out)
        print(f'{args.out}: written. Next: mmoid evaluate --predictions {args.out} --store STORE')
