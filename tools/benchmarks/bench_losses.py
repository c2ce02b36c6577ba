"""Classification losses: forward + backward, time and memory, beside F.cross_entropy and the direct matmul form.

    python tools/benchmarks/bench_losses.py                  # CPU, and CUDA where there is one: 2 min on two cores
    python tools/benchmarks/bench_losses.py --train-step     # also a whole training step of the R-50 config

A quarter of the rows are objects with one to four labels, the others background, as the RoI sampler gives them. The
matmul form is the concurrent softmax as it stands in Eq. 3, ``exp(z) @ (1 - R)^T``: it is here for its cost alone,
because it gives 0 / 0 where a large logit is concurrent with a small one. Peak memory is what forward and backward
allocate at most beyond their inputs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import torch
import torch.nn.functional as F
from torch import Tensor

from mmoid.models.losses import ConcurrentSoftmaxLoss

ROWS = (512, 1024, 4096)
CLASSES = (80, 500, 8000)
FOREGROUND = 0.25
AIM = (1024, 500)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--repeat', type=int, default=30, help='runs of each; the fastest counts (default: %(default)s)'
    )
    parser.add_argument('--rows', type=int, nargs='+', default=ROWS, help='N (default: %(default)s)')
    parser.add_argument('--classes', type=int, nargs='+', default=CLASSES, help='C (default: %(default)s)')
    parser.add_argument('--train-step', action='store_true', help='time a training step of the R-50 config too')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmarks/losses.json'), help='figures, as JSON')
    return parser.parse_args()


def batch(rows: int, classes: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, C+1), label sets (N, C+1) bool, rates (C+1, C+1): each class concurrent with about five others."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes + 1, generator=generator) * 3
    targets = torch.zeros(rows, classes + 1, dtype=torch.bool)
    objects = int(FOREGROUND * rows)
    for extra in range(4):  # one to four labels: half of the rows go on to the next
        rows_left = objects >> extra
        targets[torch.arange(rows_left), torch.randint(classes, (rows_left,), generator=generator)] = True
    targets[objects:, -1] = True
    rates = torch.zeros(classes + 1, classes + 1)
    partners = torch.randint(classes, (classes, 5), generator=generator)
    rates[:classes].scatter_(1, partners, torch.rand(classes, 5, generator=generator))
    return logits.to(device), targets.to(device), rates.to(device)


def matmul_form(logits: Tensor, targets: Tensor, rates: Tensor) -> Tensor:
    """Eq. 3 directly, for all (row, class) pairs. Unsafe; see the module."""
    weights = (1 - rates).fill_diagonal_(0)
    exponentials = (logits - logits.amax(dim=1, keepdim=True)).exp()
    others = (exponentials * ~targets) @ weights.T
    return -((exponentials / (others + exponentials)).log() * targets).sum(dim=1)


def compared(targets: Tensor, rates: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    labels = targets.long().argmax(dim=1)
    label_sets = targets[:, :-1].contiguous()  # as LabelSetBBoxHead gives them
    module = ConcurrentSoftmaxLoss(len(rates) - 1, rates[:-1, :-1].cpu().numpy()).to(rates.device)
    return {
        'cross-entropy': lambda logits: F.cross_entropy(logits, labels),
        'concurrent softmax': lambda logits: module(logits, label_sets),
        'matmul form': lambda logits: matmul_form(logits, targets, rates).mean(),
    }


def figures_of(loss: Callable[[Tensor], Tensor], logits: Tensor, repeat: int) -> dict[str, float]:
    def step() -> None:
        leaf = logits.detach().requires_grad_()
        loss(leaf).backward()
        if logits.is_cuda:
            torch.cuda.synchronize()

    step()  # what the first call allocates and looks up
    seconds, _ = measure.stopwatch(step, repeat)
    return {'milliseconds': 1e3 * seconds, 'peak_mib': peak_mib(step, logits.is_cuda)}


def peak_mib(step: Callable[[], None], cuda: bool) -> float:
    if cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / measure.MIB
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    in_use = highest = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == '[memory]':
            in_use += event.nbytes()
            highest = max(highest, in_use)
    return highest / measure.MIB


def run(args: argparse.Namespace, device: str) -> list[dict[str, Any]]:
    rows = []
    for num_rows in args.rows:
        for num_classes in args.classes:
            logits, targets, rates = batch(num_rows, num_classes, device)
            losses = compared(targets, rates)
            repeat = max(3, args.repeat * 500 * 1024 // max(500 * 1024, num_rows * num_classes))
            row = {name: figures_of(loss, logits, repeat) for name, loss in losses.items()}
            rows.append({'device': device, 'rows': num_rows, 'classes': num_classes, 'losses': row})
    return rows


def show(results: list[dict[str, Any]]) -> None:
    table = []
    for row in results:
        base = row['losses']['cross-entropy']
        for name, figures in row['losses'].items():
            table.append((
                name, row['device'], f'{row["rows"]:,}', f'{row["classes"]:,}', f'{figures["milliseconds"]:,.2f}',
                f'{figures["milliseconds"] / base["milliseconds"]:.2f}x', f'{figures["peak_mib"]:,.1f}',
                f'{figures["peak_mib"] / base["peak_mib"]:.2f}x',
            ))  # fmt: skip
    columns = ('loss', 'device', 'N', 'C', 'ms', 'of cross-entropy', 'peak MiB', 'of cross-entropy')
    measure.show('Forward and backward', columns, table)


def main() -> None:
    args = parse_args()
    devices = ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]
    rows = [row for device in devices for row in run(args, device)]
    show(rows)
    measure.write_json(args.out, {'machine': measure.machine(), 'threads': torch.get_num_threads(), 'losses': rows})
    print(f'{args.out}: the same as JSON')


if __name__ == '__main__':
    main()
