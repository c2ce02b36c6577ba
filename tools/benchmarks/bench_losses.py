"""Concurrent softmax: time and memory of forward + backward, compared with F.cross_entropy.

    python tools/benchmarks/bench_losses.py                  # CPU, and CUDA if there is one: 2 min on two cores

A quarter of the rows are objects with one to four labels, the others background, as from the RoI sampler. Peak memory
is the most that forward and backward allocate beyond their inputs. The losses run in turn, so that other load on the
machine affects all of them, and the fastest run of a loss counts. bench_train.py times whole training steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
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


def batch(rows: int, classes: int, device: str) -> tuple[Tensor, Losses]:
    """Logits (N, C+1), and the losses of their label sets; each class is concurrent with about five others."""
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
    # As a box head gives them.
    labels, label_sets = targets.long().argmax(dim=1).to(device), targets[:, :-1].contiguous().to(device)
    concurrent_softmax = ConcurrentSoftmaxLoss(classes, rates.numpy()).to(device)
    return logits.to(device), {
        'cross-entropy': lambda logits: F.cross_entropy(logits, labels),
        'concurrent softmax': lambda logits: concurrent_softmax(logits, label_sets),
    }


def step(loss: Callable[[Tensor], Tensor], logits: Tensor) -> None:
    loss(logits.detach().requires_grad_()).backward()
    if logits.is_cuda:
        torch.cuda.synchronize()


def figures_of(losses: Losses, logits: Tensor, repeat: int) -> dict[str, dict[str, float]]:
    """Milliseconds of the fastest run of each loss, run in turn, and peak MiB."""
    steps = {name: partial(step, loss, logits) for name, loss in losses.items()}
    seconds = [[measure.stopwatch(one)[0] for one in steps.values()] for _ in range(repeat + 1)]
    fastest = np.min(seconds[1:], axis=0)
    return {
        name: {'milliseconds': 1e3 * float(taken), 'peak_mib': peak_mib(one, logits.is_cuda)}
        for (name, one), taken in zip(steps.items(), fastest)
    }


def peak_mib(work: Callable[[], None], cuda: bool) -> float:
    if cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - before) / measure.MIB
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
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
    devices = ('cpu', 'cuda') if torch.cuda.is_available() else ('cpu',)
    for device, rows, classes in itertools.product(devices, args.rows, args.classes):
        logits, losses = batch(rows, classes, device)
        repeat = max(3, args.repeat * 500 * 1024 // max(500 * 1024, rows * classes))
        figures = figures_of(losses, logits, repeat)
        results.append({'device': device, 'rows': rows, 'classes': classes, 'losses': figures})
        base = figures['cross-entropy']
        for name, of_loss in figures.items():
            cells = [f'{figure:,.2f} ({figure / base[key]:.2f}x)' for key, figure in of_loss.items()]
            table.append((name, device, f'{rows:,}', f'{classes:,}', *cells))
    measure.show('Forward and backward', ('loss', 'device', 'N', 'C', 'ms', 'peak MiB'), table)
    measure.save(args.out, threads=torch.get_num_threads(), losses=results)


if __name__ == '__main__':
    main()
