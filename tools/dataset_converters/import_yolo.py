r"""Converts one split of a YOLO data set to a store that mmoid trains on.

    python tools/dataset_converters/import_yolo.py --data data.yaml --split train --out data/mine/train

`images/a.jpg` has its boxes in `labels/a.txt`. Rows with the same box are one object with several labels.
"""

from mmoid.openimages.readers.yolo import import_yolo
from mmoid.utils.command_line import converter_parser, run_converter

if __name__ == '__main__':
    parser = converter_parser(__doc__)
    parser.add_argument('--data', required=True, help='data.yaml: names of the classes, image folders of the splits')
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='train', help='default: %(default)s')
    run_converter(import_yolo, parser)
