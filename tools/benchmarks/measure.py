"""What the benchmarks share: time and memory of work done in fresh processes, and how results are shown and kept."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmoid.utils.atomic import atomic_write

MIB = 1 << 20


def in_fresh_process(work: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """Runs ``work`` in a spawned process and returns what it returns.

    Memory and warm caches of one measurement then do not show in the next.
    """
    return in_processes(1, work, *args)[0]


def in_processes(count: int, work: Callable[..., dict[str, Any]], *args: Any) -> list[dict[str, Any]]:
    """Runs ``work(*args, barrier)`` in ``count`` spawned processes at once; they meet at the barrier."""
    context = multiprocessing.get_context('spawn')
    barrier = context.Barrier(count)
    with context.Manager() as manager:
        results = manager.list()
        processes = [context.Process(target=_report, args=(results, work, args, barrier)) for _ in range(count)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise RuntimeError(f'{work.__name__}{args} failed; see the message above')
        return list(results)


def _report(results: Any, work: Callable[..., dict[str, Any]], args: Sequence[Any], barrier: Any) -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what frameworks say when they are imported
            figures = work(*args, barrier)
        results.append(figures)
    except BaseException:
        barrier.abort()  # the others would wait for ever
        raise


def memory_of_this_process() -> dict[str, float]:
    """MiB: ``private`` memory that nothing else can share, ``share`` = that + this process's part of shared pages.

    Linux's anonymous memory and PSS (``/proc/self/smaps_rollup``). Shares of several processes add up to what they take
    together. Pages of a mapped file are never private: the page cache holds them for whoever maps it next.
    """
    fields = _proc_fields('smaps_rollup')
    return {'private': fields['Anonymous'], 'share': fields['Pss']}


def peak_memory_of_this_process() -> float:
    """MiB, resident, mapped files included. (``ru_maxrss`` would start at what the parent process had.)"""
    return _proc_fields('status')['VmHWM']


def _proc_fields(name: str) -> dict[str, float]:
    lines = [line.split() for line in Path(f'/proc/self/{name}').read_text().splitlines()]
    return {words[0].rstrip(':'): int(words[1]) / 1024 for words in lines if len(words) == 3 and words[2] == 'kB'}


def stopwatch(work: Callable[[], Any], repeat: int = 1) -> tuple[float, Any]:
    """Seconds of the fastest of ``repeat`` calls, and the last result."""
    best, result = float('inf'), None
    for _ in range(repeat):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


def machine() -> dict[str, Any]:
    """What the figures were measured on, as far as it matters to them."""
    return {'cores': len(os.sched_getaffinity(0)), 'python': platform.python_version(), 'system': platform.system()}


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table, first column to the left, figures to the right."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify='right' if index else 'left')
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Writes the results, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + '\n')
