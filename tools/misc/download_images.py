r"""Downloads only the images that you need from the public bucket of Open Images, over HTTPS.

    python tools/misc/download_images.py --store data/openimages-mini/train --split train --out images/train
    python tools/misc/download_images.py --store data/openimages/train --split train --classes Toaster /m/0k4j \
        --max-per-class 500 --out images/train
    python tools/misc/download_images.py --ids ids.txt --split validation --out images/validation

If it is interrupted, run it again to resume. Every file is checked by its length and MD5. The whole set is 561 GB; an
image has 0.3 MB on average. Exit status: 1 if images are missing; their ids are in OUT/missing.csv.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.filesize import decimal

from mmoid.openimages.image_ids import spellings
from mmoid.openimages.readers.csv_files import open_text
from mmoid.openimages.readers.image_download import BUCKET, Source, download_images
from mmoid.openimages.readers.official_files import SPLITS
from mmoid.openimages.sampling.soft_balance import BalancedDraws
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.atomic import atomic_write
from mmoid.utils.command_line import exit_on_error, positive_int, tool_parser
from mmoid.utils.progress import progress_bars


def wanted_ids(args: argparse.Namespace) -> list[str]:
    """Image ids, each once: of a file, of a store, or of some classes of a store."""
    if args.ids:
        with open_text(args.ids) as stream:
            first = [fields[0].strip() for fields in csv.reader(stream) if fields]
        ids, *_ = spellings(pa.array(first, pa.string()))
        return [name for name in dict.fromkeys(ids.to_pylist()) if name and name.lower() not in ('imageid', 'image_id')]
    store = AnnotationStore(args.store)
    image_ids = store.image_ids()
    if not args.classes and not args.max_per_class:
        return image_ids
    counts = store.class_image_counts()
    most = np.minimum(counts, args.max_per_class or counts)
    draws = BalancedDraws(counts, balance=1.0, draws_per_epoch=1, seed=args.seed)
    labels = store.classes.indices(args.classes, '--classes') if args.classes else np.arange(store.num_classes)
    chosen = [store.images_of_class(label)[draws.first_images(label, int(most[label]))] for label in labels.tolist()]
    return [image_ids[image] for image in np.unique(np.concatenate(chosen))]


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument('--store', type=Path, help='download the images of this store')
    which.add_argument('--ids', type=Path, help='file, image id first in each line; folders and extensions are ignored')
    parser.add_argument('--classes', nargs='+', metavar='CLASS', help='only images of these classes (MIDs or names)')
    most = 'the first N of the class-aware sampler only'
    parser.add_argument('--max-per-class', type=positive_int, metavar='N', help=most)
    parser.add_argument('--seed', type=int, default=0, help='seed of that sampler (default: %(default)s)')
    parser.add_argument('--split', required=True, choices=SPLITS, help='split that the images are in')
    parser.add_argument('--out', required=True, type=Path, help='folder for the images')
    workers = 'simultaneous connections (default: %(default)s)'
    parser.add_argument('--workers', type=positive_int, default=16, help=workers)
    parser.add_argument('--retries', type=int, default=5, help='retries for each image (default: %(default)s)')
    parser.add_argument('--timeout', type=float, default=30, help='seconds to wait for data (default: %(default)s)')
    parser.add_argument('--mirror', default=BUCKET, help='URL of a copy of the bucket')
    args = parser.parse_args()
    if args.store is None and (args.classes or args.max_per_class):
        parser.error('--classes and --max-per-class need --store')
    if args.retries < 0:
        parser.error(f'--retries must be at least 0, got {args.retries}')
    with exit_on_error():
        source = Source(f'{args.mirror}/{args.split}', args.retries, args.timeout)
        missing: list[tuple[str, str]] = []
        new = num_bytes = 0
        ids = wanted_ids(args)
        if not ids:
            raise ValueError(f'{args.ids or args.store}: no image is left to download')
        with progress_bars() as progress:
            for done, outcome in enumerate(download_images(ids, source, args.out, args.workers), start=1):
                new, num_bytes = new + (outcome.num_bytes > 0), num_bytes + outcome.num_bytes
                if outcome.problem:
                    missing.append((outcome.image_id, outcome.problem))
                progress('downloading images', done, len(ids))
        report = args.out / 'missing.csv'
        report.unlink(missing_ok=True)
        if missing:
            with atomic_write(report) as temporary, temporary.open('w', newline='') as stream:
                csv.writer(stream).writerows([('ImageID', 'Reason'), *missing])
        there = len(ids) - new - len(missing)
        print(f'{args.out}: {len(ids):,} images, {new:,} new ({decimal(num_bytes)}), {there:,} were there already')
        if missing:
            raise ValueError(
                f'{len(missing):,} images are missing, the first is {missing[0][0]}: {missing[0][1]}. All are in '
                f'{report}; run again to try them again'
            )
        print(f'Next: mmoid prepare --images {args.out}, with the annotations of {args.split}')
