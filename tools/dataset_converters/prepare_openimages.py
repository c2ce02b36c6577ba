r"""Converts official Open Images CSV files to a store that mmoid trains on.

    python tools/dataset_converters/prepare_openimages.py --out data/openimages/train \
        --boxes challenge-2019-train-detection-bbox.csv --labels challenge-2019-train-detection-human-imagelabels.csv \
        --classes challenge-2019-classes-description-500.csv --hierarchy challenge-2019-label500-hierarchy.json \
        --images images/train

Run it once for each split. Training looks for DATA_ROOT/train and DATA_ROOT/validation. Without --boxes and --labels,
the store has all images of --images, or else of --image-sizes, to predict on.
"""

from mmoid.openimages.readers.official_csv import convert
from mmoid.utils.command_line import converter_parser, run_converter

if __name__ == '__main__':
    parser = converter_parser(__doc__)
    parser.add_argument('--boxes', help='box CSV: V3 to V7 or challenge, .csv or .csv.gz')
    labels = 'CSV of human-verified image-level labels; the metric needs them'
    parser.add_argument('--labels', dest='image_labels', metavar='LABELS', help=labels)
    parser.add_argument('--classes', required=True, help='class descriptions CSV; sets the order of classes')
    parser.add_argument('--images', help='image folder, sub-folders included')
    parser.add_argument('--image-sizes', help='CSV of image sizes; without it they are read from the image files')
    other = 'rows of classes not in --classes: stop (default), or drop'
    parser.add_argument('--other-classes', choices=('error', 'drop'), default='error', help=other)
    run_converter(convert, parser)
