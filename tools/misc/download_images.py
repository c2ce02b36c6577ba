"""Downloads only the images that you need from the public bucket of Open Images, over HTTPS.

    python tools/misc/download_images.py --store data/openimages-mini/train --split train --out images/train
    python tools/misc/download_images.py --store data/openimages/train --split train --classes Toaster /m/0k4j \
        --max-per-class 500 --out images/train
    python tools/misc/download_images.py --ids ids.txt --split validation --out images/validation

If it is interrupted, run it again to resume. Every file is checked by its length and MD5. The whole set is 561 GB; an
image has 0.3 MB on average. Exit status: 1 if images are missing; their ids are in OUT/missing.csv.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from rich.filesize import decimal

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.image_download import BUCKET, Outcome, Source, download_images
from mmoid.openimages.readers.official_files import SPLITS
from mmoid.openimages.sampling.soft_balance import BalancedDraws
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.utils.atomic import atomic_write
from mmoid.utils.progress import progress_bars


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument('--store', type=Path, help='images of a store, such as a mini set')
    which.add_argument('--ids', type=Path, help='file with one image id a line; folders and extensions are ignored')
    parser.add_argument('--classes', nargs='+', metavar='CLASS', help='only images of these classes (MIDs or names)')
    most = 'of each class at most so many, those that the class-aware sampler draws first'
    parser.add_argument('--max-per-class', type=int, metavar='N', help=most)
    parser.add_argument('--seed', type=int, default=0, help='of the sampler (default: %(default)s)')
    parser.add_argument('--split', required=True, choices=SPLITS, help='folder of the bucket')
    parser.add_argument('--out', required=True, type=Path, help='folder of the images')
    parser.add_argument('--workers', type=int, default=16, help='connections at a time (default: %(default)s)')
    parser.add_argument('--retries', type=int, default=5, help='for each image (default: %(default)s)')
    parser.add_argument('--timeout', type=float, default=30, help='seconds without a byte (default: %(default)s)')
    parser.add_argument('--mirror', default=BUCKET, help='address of a copy of the bucket')
    args = parser.parse_args()
    if args.store is None and (args.classes or args.max_per_class):
        parser.error('--classes and --max-per-class need --store')
    for name, least in (('workers', 1), ('max_per_class', 1), ('retries', 0)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            parser.error(f'--{name.replace("_", "-")} must be at least {least}, got {getattr(args, name)}')
    return args


def ids_of_file(path: Path) -> list[str]:
    """The ids in a file, each once: ``train/0001.jpg`` is ``0001``."""
    lines = (line.split(',')[0].strip() for line in path.read_text(encoding='utf-8-sig').splitlines())
    ids = [re.sub(r'\.jpe?g$', '', PurePosixPath(line).name, flags=re.IGNORECASE) for line in lines]
    return list(dict.fromkeys(image_id for image_id in ids if image_id and image_id.lower() != 'imageid'))


def ids_of_store(store: AnnotationStore, classes: Sequence[str] | None, most: int | None, seed: int) -> list[str]:
    """The ids of all images, or of those of classes, of each at most ``most``."""
    image_ids = store.image_ids()
    if classes is None and most is None:
        return image_ids
    chosen = np.zeros(store.num_images, dtype=bool)
    counts = store.class_image_counts()
    draws = BalancedDraws(counts, balance=1.0, draws_per_epoch=1, seed=seed)
    for label in store.classes.indices(classes, '--classes') if classes else range(store.num_classes):
        positions = draws.first_images(int(label), min(most or int(counts[label]), int(counts[label])))
        chosen[store.images_of_class(int(label))[positions]] = True
    return [image_ids[image] for image in np.flatnonzero(chosen)]


def main() -> None:
    args = parse_args()
    source = Source(f'{args.mirror}/{args.split}', args.retries, args.timeout)
    missing: list[Outcome] = []
    new = num_bytes = 0
    try:
        if args.ids:
            ids = ids_of_file(args.ids)
        else:
            ids = ids_of_store(AnnotationStore(args.store), args.classes, args.max_per_class, args.seed)
        if not ids:
            raise ValueError(f'{args.ids or args.store}: no image is left to download')
        with progress_bars() as progress:
            for done, outcome in enumerate(download_images(ids, source, args.out, args.workers), start=1):
                new, num_bytes = new + (outcome.num_bytes > 0), num_bytes + outcome.num_bytes
                if outcome.problem:
                    missing.append(outcome)
                progress('downloading images', done, len(ids))
        report = args.out / 'missing.csv'
        report.unlink(missing_ok=True)
        if missing:
            with atomic_write(report) as temporary, temporary.open('w', newline='') as stream:
                csv.writer(stream).writerows([('ImageID', 'Reason'), *((one.image_id, one.problem) for one in missing)])
    except (AnnotationError, ValueError, OSError) as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit('interrupted; run again to resume')
    there = len(ids) - new - len(missing)
    print(f'{args.out}: {len(ids):,} images, {new:,} new ({decimal(num_bytes)}), {there:,} were there already')
    if missing:
        first = missing[0]
        sys.exit(
            f'error: {len(missing):,} images are missing, the first is {first.image_id}: {first.problem}. All are in '
            f'{report}; run again to try them again'
        )


if __name__ == '__main__':
    main()
