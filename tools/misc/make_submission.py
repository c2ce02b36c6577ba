r"""Writes predictions as a submission to the Open Images challenge: ImageId,PredictionString.

    python tools/misc/make_submission.py work_dirs/predictions --out submission.csv --images sample_submission.csv \
        --hierarchy challenge-2019-label500-hierarchy.json --expand-detections --score 0.01 --max-per-image 300

Each image of the list gets a row, with detections or without. The evaluation server adds no ancestors. If the model
does not predict them itself, add them with --expand-detections.
"""

from pathlib import Path

from mmoid.openimages.hierarchy import load_tree
from mmoid.openimages.predictions.ancestors import hierarchy_with_ancestors
from mmoid.openimages.predictions.csv_files import open_predictions, read_image_list, write_submission
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.summary import Summary
from mmoid.utils.command_line import exit_on_error, tool_parser
from mmoid.utils.progress import print_changes, print_values, progress_bars

if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('predictions', help='folder of tools/test.py --out or tools/misc/ensemble.py, or a CSV file')
    parser.add_argument('--out', required=True, help='the submission, .csv or .csv.gz')
    images = 'CSV with the column ImageID or ImageId (default: the images of --store, or of the predictions)'
    parser.add_argument('--images', help=images)
    parser.add_argument('--store', help='prepared split, for its images and its hierarchy')
    parser.add_argument('--hierarchy', help='hierarchy JSON, for --expand-detections')
    parser.add_argument('--expand-detections', action='store_true', help='add the ancestors of every detection')
    nms = 'IoU threshold of the NMS after --expand-detections (default: %(default)s); 0: no NMS'
    parser.add_argument('--ancestor-nms', type=float, metavar='IOU', default=0.5, help=nms)
    parser.add_argument('--score', type=float, default=0.0, help='leave out lower scores (default: %(default)s)')
    parser.add_argument('--max-per-image', type=int, help='keep only the best of each image, with ancestors')
    missing = 'images that the model was not run on: a row without detections (default), or stop'
    parser.add_argument('--missing-images', choices=('empty', 'error'), default='empty', help=missing)
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')
    args = parser.parse_args()
    with exit_on_error():
        if Path(args.out).exists() and not args.overwrite:
            raise ValueError(f'{args.out}: exists already; give --overwrite to replace it')
        if args.hierarchy is not None and not args.expand_detections:
            raise ValueError('--hierarchy is for --expand-detections, which is not given')
        predictions, summary = open_predictions(args.predictions), Summary()
        store = None if args.store is None else AnnotationStore(args.store)
        hierarchy = None
        if args.expand_detections:
            if args.hierarchy is None and store is None:
                raise ValueError('--expand-detections needs --hierarchy or --store')
            tree = store.metadata['hierarchy'] if args.hierarchy is None else load_tree(args.hierarchy)
            hierarchy = hierarchy_with_ancestors(tree, predictions.label_names, args.hierarchy or args.store)
        image_ids = None if store is None else store.image_ids()
        if args.images is not None:
            image_ids = read_image_list(args.images, summary)
        with progress_bars() as progress:
            counts = write_submission(
                args.out,
                predictions,
                image_ids,
                min_score=args.score,
                max_per_image=args.max_per_image,
                hierarchy=hierarchy,
                ancestor_nms=args.ancestor_nms or None,
                missing=args.missing_images,
                progress=progress,
            )
        print_values(counts, args.out)
        print_changes(summary)
        print(f'{args.out}: written. Next: upload it to the evaluation server')
