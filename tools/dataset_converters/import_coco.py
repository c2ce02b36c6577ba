r"""Converts a COCO or LVIS JSON file to a store that mmoid trains on.

    python tools/dataset_converters/import_coco.py --annotations instances_train.json \
        --images images/train --out data/mine/train

A class is the `freebase_id` of a category, else its `mid`, else its name. `iscrowd` becomes group-of. Give
the hierarchy of the classes with --hierarchy, for V3Det its category tree; a file from
tools/dataset_converters/export_coco.py brings its own.
"""

from mmoid.openimages.readers.coco import import_coco
from mmoid.utils.command_line import converter_parser, run_converter

if __name__ == '__main__':
    parser = converter_parser(__doc__)
    parser.add_argument('--annotations', required=True, help='COCO JSON file with images, annotations, categories')
    parser.add_argument('--supercategories', action='store_true', help='add supercategories as parent classes')
    parser.add_argument('--images', help='image folder; file_name of an image is a path below it')
    run_converter(import_coco, parser)
