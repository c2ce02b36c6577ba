"""Concurrent softmax: time and memory of forward + backward, compared with F.cross_entropy.

    python tools/benchmarks/bench_losses.py                  # CPU, and CUDA if there is one: 2 min on two cores

A quarter of the rows are objects with one to four labels, the others background, as from the RoI sampler. Peak memory
is the most that forward and backward allocate beyond their inputs. The losses run in turn, so that other load on the
machine affects all of them, and the fastest run of a loss counts. bench_train.py times whole training steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmoid.models.losses import ConcurrentSoftmaxLoss

ROWS = (512, 1024, 4096)
CLASSES = (80, 500, 8000)
Losses = dict[str, Callable[[Tensor], Tensor]]


def batch(rows: int, classes: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, C+1), label sets (N, C+1) bool, rates (C, C): each class concurrent with about five others."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes + 1, generator=generator) * 3
    targets = torch.zeros(rows, classes + 1, dtype=torch.bool)
    objects = rows // 4
    for extra in range(4):  # half of the objects have a second label, half of these a third, ...
        rows_left = objects >> extra
        targets[torch.arange(rows_left), torch.randint(classes, (rows_left,), generator=generator)] = True
    targets[objects:, -1] = True
    partners = torch.randint(classes, (classes, 5), generator=generator)
    rates = torch.zeros(classes, classes).scatter_(1, partners, torch.rand(classes, 5, generator=generator))
    return logits.to(device), targets.to(device), rates


def compared(targets: Tensor, rates: Tensor) -> Losses:
    labels, label_sets = targets.long().argmax(dim=1), targets[:, :-1].contiguous()  # as a box head gives them
    module = ConcurrentSoftmaxLoss(len(rates), rates.numpy()).to(targets.device)
    return {
        'cross-entropy': lambda logits: F.cross_entropy(logits, labels),
        'concurrent softmax': lambda logits: module(logits, label_sets),
    }


def figures_of(losses: Losses, logits: Tensor, repeat: int) -> dict[str, dict[str, float]]:
    """Milliseconds of the fastest run of each loss, run in turn, and peak MiB."""

    def step(name: str) -> None:
        losses[name](logits.detach().requires_grad_()).backward()
        if logits.is_cuda:
            torch.cuda.synchronize()

    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(repeat + 1):
        for name in losses:
            seconds[name].append(measure.stopwatch(lambda name=name: step(name))[0])  # type: ignore[misc]
    return {
        name: {'milliseconds': 1e3 * min(taken[1:]), 'peak_mib': peak_mib(lambda name=name: step(name), logits.is_cuda)}  # type: ignore[misc]
        for name, taken in seconds.items()
    }


def peak_mib(step: Callable[[], None], cuda: bool) -> float:
    if cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / measure.MIB
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == '[memory]']
    return float(np.cumsum([0, *events]).max()) / measure.MIB


def main() -> None:
    parser = measure.command_line(__doc__, 'losses')
    parser.add_argument('--repeat', type=int, default=30, help='runs of each loss')
    parser.add_argument('--rows', type=int, nargs='+', default=ROWS, help='N')
    parser.add_argument('--classes', type=int, nargs='+', default=CLASSES, help='C')
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    table = []
    for device in ('cpu', 'cuda') if torch.cuda.is_available() else ('cpu',):
        for rows in args.rows:
            for classes in args.classes:
                logits, targets, rates = batch(rows, classes, device)
                repeat = max(3, args.repeat * 500 * 1024 // max(500 * 1024, rows * classes))
                losses = figures_of(compared(targets, rates), logits, repeat)
                results.append({'device': device, 'rows': rows, 'classes': classes, 'losses': losses})
                base = losses['cross-entropy']
                for name, figures in losses.items():
                    cells = [f'{figure:,.2f} ({figure / base[key]:.2f}x)' for key, figure in figures.items()]
                    table.append((name, device, f'{rows:,}', f'{classes:,}', *cells))
    measure.show('Forward and backward', ('loss', 'device', 'N', 'C', 'ms', 'peak MiB'), table)
    measure.save(args.out, threads=torch.get_num_threads(), losses=results)


if __name__ == '__main__':
    main()
