"""Downloads the official annotation files of Open Images.

    python tools/misc/download_openimages.py --out data/openimages/annotations

1.3 GB for the challenge of 2019, 2.4 GB and more for V7. Run it again after a cut, and it goes on where it stopped.
Files of 2019 are compared with SHA-256 sums that are known, all with the MD5 that Google's server sends.

The pictures are not downloaded. CVDF has them as archives, which tools/dataset_converters/prepare_openimages.py reads unpacked:

    aws s3 --no-sign-request cp s3://open-images-dataset/tar/train_0.tar.gz .       # to train_f: 16 of 30 to 49 GB
    aws s3 --no-sign-request cp s3://open-images-dataset/tar/validation.tar.gz .    # 13 GB
    aws s3 --no-sign-request cp s3://open-images-dataset/tar/test.tar.gz .          # 39 GB
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.download.display import download_bars, print_plan
from mmoid.openimages.readers.download.http_source import DownloadError
from mmoid.openimages.readers.download.official_files import (
    BASE_URL,
    CONVERTED_KINDS,
    KINDS,
    RELEASES,
    SPLITS,
    OfficialFile,
    prepare_arguments,
    select_files,
    splits_of,
)
from mmoid.openimages.readers.download.record import bytes_there
from mmoid.openimages.readers.download.resumable import download


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, help='folder of the files')
    parser.add_argument('--release', choices=RELEASES, default='challenge-2019',
                        help='v7 has 600 classes, the challenges have 500 (default: %(default)s)')  # fmt: skip
    parser.add_argument('--splits', nargs='+', choices=SPLITS, help='default: all of the release')
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=CONVERTED_KINDS,
                        help='default: all but images, the lists of pictures with their authors and licences, which '
                             'training does not need')  # fmt: skip
    parser.add_argument('--mirror', help=f'address of a copy of {BASE_URL}, to use instead of it')
    parser.add_argument('--dry-run', action='store_true', help='only show what would be downloaded; asks no server')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    out = Path(args.out)
    try:
        splits = tuple(dict.fromkeys(args.splits or splits_of(args.release)))
        files = select_files(args.release, splits, args.kinds)
        if args.dry_run:
            print_plan(files, out, args.mirror)
            return
        require_space(files, out)
        checks: Counter[str] = Counter()
        with download_bars() as progress:
            for row in files:
                record = download(
                    row.url_at(args.mirror),
                    out / row.name,
                    sha256=row.sha256,
                    size=row.exact_bytes,
                    progress=progress,
                )
                checks[f'compared by {record.checked_by}'] += 1
    except (AnnotationError, DownloadError) as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit('interrupted; run again, it goes on where it stopped')
    print(f'{out}: {args.release} is there, ' + ', '.join(f'{count} files {how}' for how, count in checks.items()))
    print_next_commands(args.release, splits, out)


def require_space(files: Sequence[OfficialFile], out: Path) -> None:
    """Raises before the first byte, not after the last one that fits.

    Raises:
        DownloadError: The disk has less room than the sizes in the table add up to.
    """
    needed = sum(max(0, (row.num_bytes or 0) - bytes_there(out / row.name)) for row in files)
    folder = next(path for path in (out, *out.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(f'{out}: {needed:,} bytes are needed, {free:,} are free; give an --out on a larger disk')


def print_next_commands(release: str, splits: Sequence[str], out: Path) -> None:
    for split in splits:
        arguments = prepare_arguments(release, split, out)
        if arguments is not None:
            command = ['python', 'tools/dataset_converters/prepare_openimages.py', '--out', f'data/openimages/{split}']
            print(shlex.join([*command, '--images', f'images/{split}', *arguments]))


if __name__ == '__main__':
    main()
