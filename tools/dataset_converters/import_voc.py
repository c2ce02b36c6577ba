r"""Converts a folder of Pascal VOC XML files to a store that mmoid trains on.

    python tools/dataset_converters/import_voc.py --annotations Annotations --images JPEGImages --out data/mine/train

Each XML file describes one image. Objects marked difficult are taken like others.
"""

from mmoid.openimages.readers.voc import import_voc
from mmoid.utils.command_line import converter_parser, run_converter

if __name__ == '__main__':
    parser = converter_parser(__doc__)
    parser.add_argument('--annotations', required=True, help='folder of XML files')
    parser.add_argument('--images', help='image folder, sub-folders included')
    run_converter(import_voc, parser)
