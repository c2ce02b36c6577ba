"""What the command-line tools share: their parser, their errors, and the conversion of annotations to a store."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmoid.openimages.store.summary import Summary
from mmoid.utils.progress import print_summary, progress_bars


def tool_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that prints the docstring of a tool as it is."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def positive_int(text: str) -> int:
    """The ``type`` of an option that must be at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, got {value}')
    return value


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Ends the process with one line and status 1 on bad input, a bad file, a missing package, or Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit('interrupted; run the same command again')
    except (ValueError, OSError, ImportError) as error:  # an AnnotationError is a ValueError
        if not isinstance(error, OSError) or error.filename is None:
            sys.exit(f'error: {error}')
        what = f'{error.strerror}; check the path and its permissions'
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            what = 'is a file, where a folder is needed; give another path'
        sys.exit(f'error: {error.filename}: {what}')


def converter_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every converter; the tool adds those of its format."""
    parser = tool_parser(description)
    parser.add_argument('--out', required=True, help='the store, a new folder')
    parser.add_argument('--overwrite', action='store_true', help='replace a store that is there')
    parser.add_argument('--hierarchy', help='hierarchy JSON; without it, no class has ancestors')
    missing = 'images without a readable file: stop (default), or drop'
    parser.add_argument('--missing-images', choices=('error', 'drop'), default='error', help=missing)
    annotated = 'CSV of classes (LabelName) that were drawn in all images, or, with ImageID, in some: verified there'
    parser.add_argument('--annotated-classes', metavar='CSV', help=annotated)
    return parser


def run_converter(convert: Callable[..., Summary], parser: argparse.ArgumentParser) -> None:
    """Parses the command line, converts, and prints the summary. Options have the names of ``convert``'s arguments."""
    options = vars(parser.parse_args())
    out = options.pop('out')
    with exit_on_error(), progress_bars() as progress:
        summary = convert(out, **options, progress=progress)
    print_summary(summary, out)
    print(f'{out}: written.' + (f' Next: mmoid rates {out} --out rates.npz' if summary.boxes else ''))
