"""Command line, fresh processes, time, memory and output of the benchmarks."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmoid.utils.atomic import atomic_write

MIB = 1 << 20
LONGEST = 1800
"""Seconds that the processes of one measurement wait for each other, at most."""

_meeting: Any = None


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the docstring as it is, and defaults."""


def command_line(description: str, name: str) -> argparse.ArgumentParser:
    """A parser with the option ``--out``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=_HelpFormatter)
    parser.add_argument('--out', type=Path, default=Path(f'work_dirs/benchmarks/{name}.json'), help='figures, as JSON')
    return parser


def in_fresh_process(work: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """Returns ``work(*args)`` of a new process, so that no measurement warms caches for the next."""
    return in_processes(1, work, *args)[0]


def in_processes(count: int, work: Callable[..., dict[str, Any]], *args: Any) -> list[dict[str, Any]]:
    """Runs ``work(*args)`` in ``count`` new processes at once. With several, ``work`` calls :func:`meet`."""
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(count, context, _start, (context.Barrier(count, timeout=LONGEST),)) as pool:
        results = [pool.submit(work, *args) for _ in range(count)]
        return [result.result() for result in results]


def meet() -> None:
    """Waits until all processes of the measurement are here."""
    _meeting.wait()


def _start(meeting: Any) -> None:
    global _meeting
    _meeting = meeting
    sys.stdout = open(os.devnull, 'w')  # frameworks print when they are imported


def memory_of_this_process() -> dict[str, float]:
    """MiB: ``private`` is anonymous memory, ``share`` is PSS, ``peak`` is the most that was resident.

    Shares of several processes add up to what they take together. Pages of a mapped file are shared, never private.
    """
    text = Path('/proc/self/smaps_rollup').read_text() + Path('/proc/self/status').read_text()
    fields = {'private': 'Anonymous', 'share': 'Pss', 'peak': 'VmHWM'}
    return {name: int(re.search(rf'^{field}:\s+(\d+) kB$', text, re.M)[1]) / 1024 for name, field in fields.items()}


def stopwatch(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of a call."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def report(path: Path, tables: dict[str, dict[str, dict[str, float]]]) -> None:
    """Prints tables of figures, by title, row and column, and writes them and the machine as JSON."""
    for title, rows in tables.items():
        columns = list(dict.fromkeys(column for figures in rows.values() for column in figures))
        table = Table('', *columns, title=title)
        for name, figures in rows.items():
            table.add_row(name, *(_digits(figures[column]) if column in figures else '' for column in columns))
        Console(width=120).print(table)
    machine = {'cores': len(os.sched_getaffinity(0)), 'python': platform.python_version()}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({'machine': machine, 'tables': tables}, indent=1) + '\n')
    print(f'{path}: the same as JSON')


def _digits(figure: float) -> str:
    return f'{figure:,.0f}' if figure >= 1000 else f'{figure:.4g}'
