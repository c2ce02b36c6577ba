"""What is to be downloaded and how far it is, shown on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from mmoid.openimages.readers.download.official_files import OfficialFile
from mmoid.openimages.readers.download.record import describe_state
from mmoid.utils.progress import Progress as ProgressCallback


@contextmanager
def download_bars() -> Iterator[ProgressCallback]:
    """Gives a callback ``(what, bytes done, bytes in all or 0)`` that shows a bar for each ``what``, on stderr."""
    bars: dict[str, TaskID] = {}
    columns = (TextColumn('{task.description}'), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def update(what: str, done: int, total: int) -> None:
            if what not in bars:
                # `completed` here, not below: what came in an earlier run is no speed of this one.
                bars[what] = progress.add_task(what, total=total or None, completed=done)
            progress.update(bars[what], completed=done, total=total or None)

        yield update


def print_plan(files: Sequence[OfficialFile], folder: str | Path, mirror: str | None) -> None:
    """Prints a table of files with their size, how much of each is in ``folder``, and their address, on stdout."""
    table = Table('file', 'size', 'there', 'address')
    for row in files:
        size = '?' if row.num_bytes is None else decimal(row.num_bytes)
        table.add_row(row.name, size, describe_state(Path(folder) / row.name), row.url_at(mirror))
    for column in table.columns:
        column.overflow = 'fold'
    console = Console()
    # A pipe has no width to keep to, and a folded address cannot be copied.
    (console if console.is_terminal else Console(width=240)).print(table)
    known = [row.num_bytes for row in files if row.num_bytes is not None]
    unknown = len(files) - len(known)
    print(f'{folder}: {decimal(sum(known))} in all' + (f', not counting {unknown} of unknown size' if unknown else ''))
