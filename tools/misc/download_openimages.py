"""Downloads the official annotation files of Open Images with curl.

    python tools/misc/download_openimages.py --out data/openimages/annotations

The challenge of 2019 takes 1.3 GB, V7 2.4 GB and more. If it is interrupted, run it again to resume. Files of 2019
are verified by known SHA-256 sums, the others by the MD5 that Google's server sends.

Images are not downloaded. CVDF has them as archives; unpack them for tools/dataset_converters/prepare_openimages.py:

    aws s3 --no-sign-request cp s3://open-images-dataset/tar/train_0.tar.gz .       # to train_f: 16 of 30 to 49 GB
    aws s3 --no-sign-request cp s3://open-images-dataset/tar/validation.tar.gz .    # 13 GB
    aws s3 --no-sign-request cp s3://open-images-dataset/tar/test.tar.gz .          # 39 GB
"""

import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal

from mmoid.openimages.readers import official_files as official
from mmoid.utils.command_line import exit_on_error, tool_parser


def require_space(files: Sequence[official.OfficialFile], out: Path) -> None:
    """Raises OSError if the disk has less room than the known sizes add up to."""
    needed = sum(max(0, (file.num_bytes or 0) - official.bytes_there(out / file.name)) for file in files)
    free = shutil.disk_usage(next(path for path in (out, *out.absolute().parents) if path.is_dir())).free
    if needed > free:
        raise OSError(f'{out}: needs {needed:,} bytes, {free:,} are free; give an --out on a larger disk')


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('--out', required=True, type=Path, help='folder for the files')
    release = 'v7 has 600 classes, the challenges have 500 (default: %(default)s)'
    parser.add_argument('--release', choices=official.RELEASES, default='challenge-2019', help=release)
    splits = 'splits to download (default: all of the release)'
    parser.add_argument('--splits', nargs='+', choices=official.SPLITS, help=splits)
    kinds = 'files to download (default: all but images, the lists of authors and licences)'
    parser.add_argument('--kinds', nargs='+', choices=official.KINDS, default=official.CONVERTED_KINDS, help=kinds)
    parser.add_argument('--mirror', help=f'URL of a copy of {official.BASE_URL}')
    parser.add_argument('--dry-run', action='store_true', help='only list the files and their sizes')
    args = parser.parse_args()
    splits = tuple(dict.fromkeys(args.splits or official.splits_of(args.release)))
    with exit_on_error():
        files = official.select_files(args.release, splits, args.kinds)
        if args.dry_run:
            for file in files:
                size = '?' if file.num_bytes is None else decimal(file.num_bytes)
                there = decimal(official.bytes_there(args.out / file.name))
                print(f'{file.name:53} {size:>8}, {there:>8} there  {file.url(args.mirror)}')
            known = [file.num_bytes for file in files if file.num_bytes is not None]
            unknown = f' and {len(files) - len(known)} files of unknown size' if len(known) < len(files) else ''
            print(f'{args.out}: {decimal(sum(known))}{unknown}')
            sys.exit(0)
        require_space(files, args.out)
        checks: Counter[str] = Counter()
        for file in files:
            print(file.name, file=sys.stderr)
            checks[official.download(file.url(args.mirror), args.out / file.name, file.sha256)] += 1
    verified = ', '.join(f'{count} files verified by {check}' for check, count in checks.items())
    print(f'{args.out}: {args.release} is complete, {verified}')
    for split in splits:
        if (arguments := official.prepare_arguments(args.release, split, args.out)) is not None:
            command = ['mmoid', 'prepare', '--out', f'data/openimages/{split}']
            print(shlex.join([*command, '--images', f'images/{split}', *arguments]))
