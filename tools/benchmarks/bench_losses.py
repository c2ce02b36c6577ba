"""Classification losses: forward + backward, time and memory, beside F.cross_entropy and the direct matmul form.

    python tools/benchmarks/bench_losses.py                  # CPU, and CUDA where there is one: 2 min on two cores
    python tools/benchmarks/bench_losses.py --train-step     # and whole steps of the R-50 config: 5 min more

A quarter of the rows are objects with one to four labels, the others background, as the RoI sampler gives them. The
matmul form is the concurrent softmax as it stands in Eq. 3, ``exp(z) @ (1 - R)^T``: it is here for its cost alone,
because it gives 0 / 0 where a large logit is concurrent with a small one. Peak memory is what forward and backward
allocate at most beyond their inputs.

What is compared runs in turn, so that whatever else the machine does meets all alike. Of losses the fastest run counts:
nothing makes a computation faster than it is. Of training steps, which are few, the median and the quartiles are told.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmoid.models.losses import ConcurrentSoftmaxLoss

ROWS = (512, 1024, 4096)
CLASSES = (80, 500, 8000)
FOREGROUND = 0.25
TRAIN_CLASSES = 500
OUR_MODEL = Path(__file__).parents[2] / 'configs/_base_/models/faster-rcnn_r50_fpn.py'
STOCK_MODEL = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--repeat', type=int, default=30, help='runs of each; the fastest counts (default: %(default)s)'
    )
    parser.add_argument('--steps', type=int, default=8, help='training steps of each detector (default: %(default)s)')
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


def figures_of(
    losses: dict[str, Callable[[Tensor], Tensor]], logits: Tensor, repeat: int
) -> dict[str, dict[str, float]]:
    """Milliseconds of the fastest and of the median run of each loss, run in turn, and peak MiB."""

    def step(loss: Callable[[Tensor], Tensor]) -> None:
        leaf = logits.detach().requires_grad_()
        loss(leaf).backward()
        if logits.is_cuda:
            torch.cuda.synchronize()

    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for turn in range(repeat + 1):
        for name, loss in losses.items():
            taken, _ = measure.stopwatch(lambda loss=loss: step(loss))  # type: ignore[misc]
            if turn:  # not what the first call allocates and looks up
                seconds[name].append(1e3 * taken)
    return {
        name: {
            'milliseconds': min(taken),
            'median_milliseconds': float(np.median(taken)),
            'peak_mib': peak_mib(lambda loss=losses[name]: step(loss), logits.is_cuda),  # type: ignore[misc]
        }
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
            row = figures_of(losses, logits, repeat)
            rows.append({'device': device, 'rows': num_rows, 'classes': num_classes, 'losses': row})
    return rows


def detector(kind: str, device: str) -> Any:
    """The R-50 detector with 500 classes, without pre-trained weights: ours, or mmdet's own with its softmax."""
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.hub import get_config
    from mmengine.registry import init_default_scope

    import mmoid.registry  # noqa: F401

    init_default_scope('mmdet')
    model = Config.fromfile(OUR_MODEL).model if kind == 'concurrent softmax' else get_config(STOCK_MODEL).model
    model.backbone.init_cfg = None
    model.roi_head.bbox_head.num_classes = TRAIN_CLASSES
    if kind == 'concurrent softmax':
        rates = batch(1, TRAIN_CLASSES, 'cpu')[2][:-1, :-1].numpy()
        model.roi_head.bbox_head.loss_cls.update(concurrent_rates=rates, num_classes=TRAIN_CLASSES)
        ancestors = np.triu(rates > 0, 1)
        model.train_cfg.rcnn.sampler.update(hierarchy=ancestors, num_classes=TRAIN_CLASSES)
    torch.manual_seed(0)
    built = MODELS.build(model).to(device)
    return built.train()


def images(device: str) -> tuple[Tensor, list[Any]]:
    """A batch of two pictures of 800 x 1333 with ten boxes each."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        low = torch.rand(10, 2, generator=generator) * torch.tensor([900.0, 500.0])
        truth = InstanceData(
            bboxes=torch.cat([low, low + 50 + 250 * torch.rand(10, 2, generator=generator)], dim=1),
            labels=torch.randint(TRAIN_CLASSES, (10,), generator=generator),
        )
        sample = DetDataSample(gt_instances=truth, ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)))
        sample.set_metainfo(dict(img_shape=(800, 1333), batch_input_shape=(800, 1344), pad_shape=(800, 1344)))
        samples.append(sample.to(device))
    return torch.rand(2, 3, 800, 1344, generator=generator).to(device), samples


def train_step(device: str, repeat: int) -> dict[str, Any]:
    """Seconds of a whole step, forward, backward and SGD, of both detectors in turn.

    Steps of seconds vary by more than what is looked for, so the part that differs, from the sampled RoIs to the
    losses, is also timed within the step. All are (lower quartile, median, upper quartile).
    """
    kinds = ('stock softmax', 'concurrent softmax')
    models = {kind: detector(kind, device) for kind in kinds}
    optimizers = {kind: torch.optim.SGD(model.parameters(), lr=1e-4) for kind, model in models.items()}
    data = images(device)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    parts: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(repeat + 1):
        for kind in kinds if turn % 2 else kinds[::-1]:
            model = models[kind]
            spent = part_clock(model, device)

            def step(model: Any = model, optimizer: Any = optimizers[kind]) -> None:
                losses, _ = model.parse_losses(model.loss(*data))
                optimizer.zero_grad()
                losses.backward()
                optimizer.step()
                if device == 'cuda':
                    torch.cuda.synchronize()

            taken, _ = measure.stopwatch(step)
            if turn:  # the first warms up
                seconds[kind].append(taken)
                parts[kind].append(sum(spent))
    return {kind: {'step_seconds': quartiles(seconds[kind]), 'part_seconds': quartiles(parts[kind])} for kind in kinds}


def quartiles(values: list[float]) -> list[float]:
    return np.quantile(values, [0.25, 0.5, 0.75]).tolist()


def part_clock(model: Any, device: str) -> list[float]:
    """Makes the RoI sampler and the head's losses report their seconds into the list that is returned."""
    spent: list[float] = []

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if device == 'cuda':
                torch.cuda.synchronize()
            seconds, result = measure.stopwatch(lambda: work(*args, **kwargs))
            spent.append(seconds)
            return result

        return run

    head, sampler = model.roi_head.bbox_head, model.roi_head.bbox_sampler
    head.loss_and_target = timed(type(head).loss_and_target.__get__(head))
    sampler.sample = timed(type(sampler).sample.__get__(sampler))
    return spent


def show_steps(steps: dict[str, Any]) -> None:
    rows = []
    for device, kinds in steps.items():
        base = kinds['stock softmax']
        for kind, figures in kinds.items():
            more = (figures['part_seconds'][1] - base['part_seconds'][1]) / base['step_seconds'][1]
            rows.append((
                kind, device, '{1:,.3f} ({0:,.3f} - {2:,.3f})'.format(*figures['step_seconds']),
                '{1:,.2f} ({0:,.2f} - {2:,.2f})'.format(*(1e3 * value for value in figures['part_seconds'])),
                f'{more:+.2%}',
            ))  # fmt: skip
    columns = ('R-50, 2 x 800 x 1333', 'device', 'step, s', 'sampler and losses, ms', 'more, of the step')
    measure.show('A training step: median (quartiles)', columns, rows)


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
    results = {'machine': measure.machine(), 'threads': torch.get_num_threads(), 'losses': rows}
    if args.train_step:
        results['train_step'] = {device: train_step(device, args.steps) for device in devices}
        show_steps(results['train_step'])
    measure.write_json(args.out, results)
    print(f'{args.out}: the same as JSON')


if __name__ == '__main__':
    main()
