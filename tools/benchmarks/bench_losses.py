"""Measures time and memory of concurrent softmax, loss and scores, beside F.cross_entropy and softmax.

    python tools/benchmarks/bench_losses.py                  # CPU, and CUDA if there is one: 2 min on two cores

A quarter of the rows are objects with one to four labels, the others background, as from the RoI sampler. Peak memory
is the most that a run allocates beyond its inputs and the rates. The runs take turns, so that other load on the machine
affects all of them, and the fastest of each counts. Above 4,096 classes the rates are sparse. bench_train.py times
whole training steps.
"""

import itertools
from collections.abc import Callable
from functools import partial

import measure
import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from mmoid.models.class_lists import class_matrix
from mmoid.models.losses.concurrent_softmax import ConcurrentSoftmaxLoss

ROWS = (512, 1024, 4096)
CLASSES = (80, 500, 8000)
Work = dict[str, Callable[[], object]]


def batch(rows: int, classes: int, device: str) -> list[Work]:
    """Losses of label sets, and scores, by name; each class is concurrent with about five others."""
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(rows, classes + 1, generator=generator) * 3).to(device)
    targets = torch.zeros(rows, classes + 1, dtype=torch.bool)
    objects = rows // 4
    for extra in range(4):  # half of the objects have a second label, half of these a third, ...
        rows_left = objects >> extra
        targets[torch.arange(rows_left), torch.randint(classes, (rows_left,), generator=generator)] = True
    targets[objects:, -1] = True
    first = torch.arange(classes).repeat_interleave(5)
    second = (first + torch.randint(1, classes, first.shape, generator=generator)) % classes
    rates = csr_array((torch.rand(first.shape, generator=generator), (first, second)), (classes + 1, classes + 1))
    rates.data = rates.data.clip(max=1)  # of a pair drawn twice
    # As a box head gives them.
    labels, label_sets = targets.long().argmax(dim=1).to(device), targets[:, :-1].contiguous().to(device)
    concurrent_softmax = ConcurrentSoftmaxLoss(classes)
    concurrent_softmax.set_class_buffer(class_matrix(rates))
    concurrent_softmax.to(device)

    def step(loss: Callable[[Tensor], Tensor]) -> None:
        loss(logits.detach().requires_grad_()).backward()

    losses = {
        'cross-entropy': partial(step, lambda logits: F.cross_entropy(logits, labels)),
        'concurrent softmax': partial(step, lambda logits: concurrent_softmax(logits, label_sets)),
    }
    scores = {'softmax': partial(logits.softmax, 1), 'Eq. 5': partial(concurrent_softmax.get_activation, logits)}
    return [losses, scores]


def figures_of(work: Work, repeat: int, cuda: bool) -> dict[str, dict[str, float]]:
    """Milliseconds of the fastest run of each, run in turn, and peak MiB; also relative to the first."""

    def run(one: Callable[[], object]) -> None:
        one()
        if cuda:
            torch.cuda.synchronize()

    seconds = [[measure.stopwatch(run, one)[0] for one in work.values()] for _ in range(repeat + 1)]
    fastest = 1e3 * np.min(seconds[1:], axis=0)
    peaks = [peak_mib(one, cuda) for one in work.values()]
    columns = (fastest, fastest / fastest[0], peaks, np.array(peaks) / peaks[0])
    return {
        name: dict(zip(('ms', 'of stock', 'peak MiB', 'of stock, memory'), map(float, row)))
        for name, row in zip(work, zip(*columns))
    }


def peak_mib(work: Callable[[], object], cuda: bool) -> float:
    if cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - before) / measure.MIB
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == '[memory]']
    return float(np.cumsum([0, *events]).max()) / measure.MIB


if __name__ == '__main__':
    parser = measure.command_line(__doc__, 'losses')
    parser.add_argument('--repeat', type=int, default=30, help='runs of each, of which the fastest counts')
    parser.add_argument('--rows', type=int, nargs='+', default=ROWS, help='numbers of rows, N')
    parser.add_argument('--classes', type=int, nargs='+', default=CLASSES, help='numbers of classes, C')
    args = parser.parse_args()
    devices = ('cpu', 'cuda') if torch.cuda.is_available() else ('cpu',)
    table = {}
    for device, rows, classes in itertools.product(devices, args.rows, args.classes):
        repeat = max(3, args.repeat * 500 * 1024 // max(500 * 1024, rows * classes))
        for work in batch(rows, classes, device):
            for name, figures in figures_of(work, repeat, device == 'cuda').items():
                table[f'{name}, {device}, {rows:,} x {classes:,}'] = figures
    title = f'Losses, forward and backward, and scores of N rows x C classes, {torch.get_num_threads()} threads'
    measure.report(args.out, {title: table})
