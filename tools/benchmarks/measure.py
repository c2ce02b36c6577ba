"""Command line, fresh processes, time, memory and output of the benchmarks."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmoid.utils.atomic import atomic_write

MIB = 1 << 20
_meeting: Any = None
"""The barrier of the processes of one measurement."""


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
    """Runs ``work(*args)`` in ``count`` new processes at once. They wait for each other in :func:`meet`."""
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(count, context, _join, (context.Barrier(count),)) as pool:
        results = [pool.submit(_run, work, args) for _ in range(count)]
        return [result.result() for result in results]


def meet() -> None:
    """Waits until all processes of the measurement are here."""
    _meeting.wait()


def _join(meeting: Any) -> None:
    global _meeting
    _meeting = meeting


def _run(work: Callable[..., dict[str, Any]], args: Sequence[Any]) -> dict[str, Any]:
    meet()  # a process that finishes early would take the work of one that still starts
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # frameworks print when they are imported
            return work(*args)
    except BaseException:
        _meeting.abort()  # the other processes would wait forever
        raise


def memory_of_this_process() -> dict[str, float]:
    """MiB: ``private`` is anonymous memory; ``share`` also counts this process's part of shared pages (PSS).

    Shares of several processes add up to what they take together. Pages of a mapped file are never private.
    """
    fields = _proc_fields('smaps_rollup')
    return {'private': fields['Anonymous'], 'share': fields['Pss']}


def peak_memory_of_this_process() -> float:
    """MiB, resident, mapped files included. (``ru_maxrss`` would start at the parent's memory.)"""
    return _proc_fields('status')['VmHWM']


def _proc_fields(name: str) -> dict[str, float]:
    lines = [line.split() for line in Path(f'/proc/self/{name}').read_text().splitlines()]
    return {words[0].rstrip(':'): int(words[1]) / 1024 for words in lines if words[-1] == 'kB'}


def stopwatch(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of a call."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: the first column to the left, figures to the right."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify='right' if index else 'left')
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def save(path: Path, **results: Any) -> None:
    """Writes the results and the machine as JSON."""
    system = {'cores': len(os.sched_getaffinity(0)), 'python': platform.python_version(), 'system': platform.system()}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({'machine': system, **results}, indent=1) + '\n')
    print(f'{path}: the same as JSON')
