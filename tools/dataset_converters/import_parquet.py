r"""Converts Parquet files of a detection data set, as hubs have them, to a store that mmoid trains on.

    python tools/dataset_converters/import_parquet.py train-*.parquet --images data/mine/images --out data/mine/train

A row is an image with `objects` (`bbox` in pixels, `category`). Images in the files are written to --images first.
"""

from mmoid.openimages.readers.parquet import import_parquet
from mmoid.utils.command_line import converter_parser, run_converter

if __name__ == '__main__':
    parser = converter_parser(__doc__)
    parser.add_argument('files', nargs='+', help='Parquet files of one split')
    parser.add_argument('--images', required=True, help='folder of the images')
    parser.add_argument('--box-format', choices=('xywh', 'xyxy'), default='xywh', help='default: %(default)s, as COCO')
    parser.add_argument('--classes', help='text file: names of numbered classes, a line each, if the files lack them')
    run_converter(import_parquet, parser)
