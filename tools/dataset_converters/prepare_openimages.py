r"""Official Open Images CSV files + hierarchy + images -> a store that mmoid trains on.

    python tools/dataset_converters/prepare_openimages.py --out data/openimages/train \
        --boxes challenge-2019-train-detection-bbox.csv --labels challenge-2019-train-detection-human-imagelabels.csv \
        --classes challenge-2019-classes-description-500.csv --hierarchy challenge-2019-label500-hierarchy.json \
        --images images/train

Run it once for each split. Training looks for DATA_ROOT/train and DATA_ROOT/validation.
"""

from __future__ import annotations

import argparse
import sys

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.official_csv import convert
from mmoid.utils.progress import print_summary, progress_bars


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--boxes', required=True, help='box CSV: V3 to V7 or challenge, .csv or .csv.gz')
    parser.add_argument('--labels', help='human-verified image-level labels CSV; the metric needs them')
    parser.add_argument('--classes', required=True, help='class descriptions CSV; sets the order of classes')
    parser.add_argument('--hierarchy', required=True, help='hierarchy JSON')
    parser.add_argument('--images', help='image folder, sub-folders included')
    parser.add_argument('--image-sizes', help='CSV of image sizes; without it they are read from the image files')
    policy = {'choices': ('error', 'drop'), 'default': 'error'}
    parser.add_argument('--missing-images', **policy, help='annotated images without a file: stop (default), or drop')
    parser.add_argument('--other-classes', **policy, help='rows of classes not in --classes: stop (default), or drop')
    parser.add_argument('--out', required=True, help='the store, a new folder')
    parser.add_argument('--overwrite', action='store_true', help='replace a store that is there')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        with progress_bars() as progress:
            summary = convert(
                args.out,
                boxes=args.boxes,
                classes=args.classes,
                hierarchy=args.hierarchy,
                image_labels=args.labels,
                images=args.images,
                image_sizes=args.image_sizes,
                missing_images=args.missing_images,
                other_classes=args.other_classes,
                overwrite=args.overwrite,
                progress=progress,
            )
    except (AnnotationError, ValueError, OSError) as error:
        sys.exit(f'error: {error}')
    print_summary(summary, args.out)


if __name__ == '__main__':
    main()
