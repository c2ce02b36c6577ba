"""Reports what is in a store: imbalance, several labels on one object, missing labels (Fig. 2 and 3 of the paper).

    python tools/analysis_tools/report_openimages.py data/openimages/train --out work_dirs/report

Writes one HTML page that needs no other file, its figures as PNG files beside it, and prints the headline numbers.
"""

from mmoid.openimages.predictions.csv_files import open_predictions
from mmoid.openimages.statistics.confusion import count_confusion
from mmoid.openimages.statistics.store_statistics import measure
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.command_line import exit_on_error, tool_parser
from mmoid.utils.progress import print_counts, print_values, progress_bars
from mmoid.visualization.report import headlines, write_report

if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('store', help='folder made by tools/dataset_converters/prepare_openimages.py')
    parser.add_argument('--out', required=True, help='folder for index.html and the figures')
    parser.add_argument('--iou', type=float, default=0.9, help='lowest IoU of boxes on one object (default: 0.9)')
    parser.add_argument('--predictions', help='folder of tools/test.py --out, or a CSV: adds what the model confuses')
    parser.add_argument('--score', type=float, default=0.5, help='lowest score of a detection (default: 0.5)')
    args = parser.parse_args()
    with exit_on_error():
        store = AnnotationStore(args.store)
        if not store.num_boxes:
            raise ValueError(f'{args.store}: has no boxes, so there is nothing to report')
        confusion = None
        with progress_bars() as progress:
            statistics = measure(store, args.iou, progress=progress)
            if args.predictions:
                predictions = open_predictions(args.predictions, store.classes)
                confusion = count_confusion(store, predictions, args.score, progress)
        print_values(dict(headlines(store, statistics, confusion)), args.store)
        if confusion is not None:
            print_counts(args.predictions, confusion.left_out)
        source = f'{args.predictions}, score >= {args.score:g}, IoU >= 0.5'
        page = write_report(args.out, store, statistics, confusion=confusion, confusion_source=source)
    print(f'{page}: written. Next: mmoid rates {args.store} --out rates.npz')
