"""Time and memory of work in fresh processes, and how the benchmarks print and save figures."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmoid.utils.atomic import atomic_write

MIB = 1 << 20


def in_fresh_process(work: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """Returns ``work(*args, barrier)`` of a new process, so that no measurement warms caches for the next."""
    return in_processes(1, work, *args)[0]


def in_processes(count: int, work: Callable[..., dict[str, Any]], *args: Any) -> list[dict[str, Any]]:
    """Runs ``work(*args, barrier)`` in ``count`` new processes at once; they meet at the barrier."""
    context = multiprocessing.get_context('spawn')
    with context.Manager() as manager, ProcessPoolExecutor(count, context) as pool:
        barrier = manager.Barrier(count)
        results = [pool.submit(_run, work, args, barrier) for _ in range(count)]
        return [result.result() for result in results]


def _run(work: Callable[..., dict[str, Any]], args: Sequence[Any], barrier: Any) -> dict[str, Any]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # frameworks print when they are imported
            return work(*args, barrier)
    except BaseException:
        barrier.abort()  # the other processes would wait forever
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


def stopwatch(work: Callable[[], Any], repeat: int = 1) -> tuple[float, Any]:
    """Seconds of the fastest of ``repeat`` calls, and the last result."""
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def machine() -> dict[str, Any]:
    """The machine of the figures."""
    return {'cores': len(os.sched_getaffinity(0)), 'python': platform.python_version(), 'system': platform.system()}


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: the first column to the left, figures to the right."""
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
