r"""A COCO JSON file -> a store that mmoid trains on.

    python tools/dataset_converters/import_coco.py --annotations instances_train.json \
        --images images/train --out data/mine/train

A class is the `freebase_id` of a category, else its `mid`, else its name. `iscrowd` becomes group-of. Give
the hierarchy of the classes with --hierarchy; a file from tools/dataset_converters/export_coco.py brings its own.
"""

from __future__ import annotations

import argparse
import sys

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.coco import import_coco
from mmoid.utils.progress import print_summary, progress_bars


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--annotations', required=True, help='COCO JSON file with images, annotations, categories')
    parser.add_argument('--hierarchy', help='hierarchy JSON; without it, no class has ancestors')
    parser.add_argument('--images', help='folder that the file_name of images starts from')
    missing = 'images that are not in the folder: stop (default), or drop'
    parser.add_argument('--missing-images', choices=('error', 'drop'), default='error', help=missing)
    parser.add_argument('--out', required=True, help='the store, a new folder')
    parser.add_argument('--overwrite', action='store_true', help='replace a store that is there')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        with progress_bars() as progress:
            summary = import_coco(
                args.out,
                annotations=args.annotations,
                images=args.images,
                hierarchy=args.hierarchy,
                missing_images=args.missing_images,
                overwrite=args.overwrite,
                progress=progress,
            )
    except (AnnotationError, ValueError, OSError) as error:
        sys.exit(f'error: {error}')
    print_summary(summary, args.out)


if __name__ == '__main__':
    main()
