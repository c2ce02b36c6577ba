"""Progress of long work and what came of it, shown on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as ProgressBars
from rich.table import Column, Table
from rich.text import Text

from mmoid.openimages.store.summary import Summary

Progress = Callable[[str, int, int], None]
"""Called with a description of the work, the amount done and the total amount."""


def no_progress(what: str, done: int, total: int) -> None:
    """No-op progress callback."""


class RateColumn(ProgressColumn):
    """Amount per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text('' if speed is None else f'{speed:,.0f}/s' if speed >= 10 else f'{speed:.1f}/s')


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Gives a callback ``(what, done, total)`` that shows a bar for each ``what`` on a terminal (stderr)."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield no_progress  # bars that are disabled print an empty line before rich 14.3
        return
    bars: dict[str, TaskID] = {}
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with ProgressBars(*columns, console=console) as progress:

        def update(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done, total=total)

        yield update


def print_summary(summary: Summary, title: str) -> None:
    """Prints what a conversion read, wrote, dropped and changed as a table, on standard output."""
    counts = {name.replace('_', ' '): value for name, value in asdict(summary).items() if isinstance(value, int)}
    print_values(counts if summary.dropped else {**counts, 'dropped': 'nothing'}, title)
    print_changes(summary)


def print_values(values: Mapping[str, int | str], title: str) -> None:
    """Prints a table with a row for each value."""
    print_table(
        ((name, f'{value:,}' if isinstance(value, int) else value) for name, value in values.items()), title=title
    )


def print_changes(summary: Summary) -> None:
    """Prints what was dropped and changed, a line for each reason."""
    for line in summary.lines():
        Console().print(line, style='yellow', markup=False, emoji=False, soft_wrap=True)


def print_counts(path: str, counts: Mapping[str, int]) -> None:
    """Prints what was left out or changed while a file was read, a line for each description."""
    for reason, count in counts.items():
        print(f'{path}: {count:,} {reason}')


def print_table(rows: Iterable[Iterable[str | Text]], *columns: str | Column, title: str | None = None) -> None:
    """Prints a table on standard output; brackets in its cells, such as those of class names, are not markup."""
    table = Table(*columns, title=title, show_header=bool(columns))
    for row in rows:
        table.add_row(*row)
    Console(markup=False, emoji=False).print(table)
