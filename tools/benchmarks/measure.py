"""Command line, fresh processes, time, memory and output of the benchmarks."""

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


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the docstring as it is, and defaults."""


def command_line(description: str, name: str) -> argparse.ArgumentParser:
    """A parser with the option ``--out``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=_HelpFormatter)
    parser.add_argument('--out', type=Path, default=Path(f'work_dirs/benchmarks/{name}.json'), help='figures, as JSON')
    return parser


def in_fresh_process(work: Callable[..., Any], *args: Any) -> Any:
    """Returns ``work(*args)`` of a new process, so that no measurement warms caches for the next."""
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), _print_nothing) as pool:
        return pool.submit(work, *args).result()


def _print_nothing() -> None:
    sys.stdout = open(os.devnull, 'w')  # frameworks print when they are imported


def memory_of_this_process() -> dict[str, float]:
    """MiB: ``private`` is anonymous memory, without mapped files; ``peak`` is the most that was resident."""
    text = Path('/proc/self/smaps_rollup').read_text() + Path('/proc/self/status').read_text()
    fields = {'private': 'Anonymous', 'peak': 'VmHWM'}
    return {name: int(re.search(rf'^{field}:\s+(\d+) kB$', text, re.M)[1]) / 1024 for name, field in fields.items()}


def stopwatch(work: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """Seconds and result of a call."""
    start = time.perf_counter()
    result = work(*args)
    return time.perf_counter() - start, result


def report(path: Path, tables: dict[str, dict[str, dict[str, float]]]) -> None:
    """Prints tables of figures, by title, row and column, and writes them and the machine as JSON."""
    for title, rows in tables.items():
        columns = list(dict.fromkeys(column for figures in rows.values() for column in figures))
        table = Table('', *columns, title=title)
        for name, figures in rows.items():
            cells = (figures.get(column) for column in columns)
            table.add_row(name, *('' if x is None else f'{x:,.0f}' if x >= 1000 else f'{x:.4g}' for x in cells))
        Console(width=120).print(table)
    machine = {'cores': len(os.sched_getaffinity(0)), 'python': platform.python_version()}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({'machine': machine, 'tables': tables}, indent=1) + '\n')
    print(f'{path}: the same as JSON')
