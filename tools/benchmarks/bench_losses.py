"""Concurrent softmax: time and memory of forward + backward, compared with F.cross_entropy.

    python tools/benchmarks/bench_losses.py                  # CPU, and CUDA if there is one: 2 min on two cores
    python tools/benchmarks/bench_losses.py --train-step     # also whole steps of the R-50 config: 5 min more

A quarter of the rows are objects with one to four labels, the others background, as from the RoI sampler. Peak memory
is the most that forward and backward allocate beyond their inputs.

The losses run in turn, so that other load on the machine affects all of them. The fastest run of a loss counts. Of
training steps the median and the quartiles are shown.
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
TRAIN_CLASSES = 500
OUR_MODEL = Path(__file__).parents[2] / 'configs/_base_/models/label-set_faster-rcnn_r50_fpn.py'
STOCK_MODEL = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'
Losses = dict[str, Callable[[Tensor], Tensor]]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeat', type=int, default=30, help='runs of each loss (default: %(default)s)')
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
    objects = rows // 4
    for extra in range(4):  # half of the objects have a second label, half of these a third, ...
        rows_left = objects >> extra
        targets[torch.arange(rows_left), torch.randint(classes, (rows_left,), generator=generator)] = True
    targets[objects:, -1] = True
    rates = torch.zeros(classes + 1, classes + 1)
    partners = torch.randint(classes, (classes, 5), generator=generator)
    rates[:classes].scatter_(1, partners, torch.rand(classes, 5, generator=generator))
    return logits.to(device), targets.to(device), rates.to(device)


def compared(targets: Tensor, rates: Tensor) -> Losses:
    labels, label_sets = targets.long().argmax(dim=1), targets[:, :-1].contiguous()  # as a box head gives them
    module = ConcurrentSoftmaxLoss(len(rates) - 1, rates[:-1, :-1].cpu().numpy()).to(rates.device)
    return {
        'cross-entropy': lambda logits: F.cross_entropy(logits, labels),
        'concurrent softmax': lambda logits: module(logits, label_sets),
    }


def figures_of(losses: Losses, logits: Tensor, repeat: int) -> dict[str, dict[str, float]]:
    """Milliseconds of the fastest run of each loss, run in turn, and peak MiB."""

    def step(loss: Callable[[Tensor], Tensor]) -> None:
        loss(logits.detach().requires_grad_()).backward()
        if logits.is_cuda:
            torch.cuda.synchronize()

    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(repeat + 1):
        for name, loss in losses.items():
            seconds[name].append(measure.stopwatch(lambda loss=loss: step(loss))[0])  # type: ignore[misc]
    peaks = {name: peak_mib(lambda loss=loss: step(loss), logits.is_cuda) for name, loss in losses.items()}  # type: ignore[misc]
    return {name: {'milliseconds': 1e3 * min(taken[1:]), 'peak_mib': peaks[name]} for name, taken in seconds.items()}


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


def run(args: argparse.Namespace, device: str) -> list[dict[str, Any]]:
    rows = []
    for num_rows in args.rows:
        for num_classes in args.classes:
            logits, targets, rates = batch(num_rows, num_classes, device)
            repeat = max(3, args.repeat * 500 * 1024 // max(500 * 1024, num_rows * num_classes))
            figures = figures_of(compared(targets, rates), logits, repeat)
            rows.append({'device': device, 'rows': num_rows, 'classes': num_classes, 'losses': figures})
    return rows


def detector(kind: str, device: str) -> Any:
    """The R-50 detector with 500 classes, without pretrained weights: ours, or mmdet's own with its softmax."""
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
        loss = dict(type='ConcurrentSoftmaxLoss', concurrent_rates=rates, hierarchy=np.triu(rates > 0, 1))
        model.roi_head.bbox_head.loss_cls = loss
    torch.manual_seed(0)
    return MODELS.build(model).to(device).train()


def images(device: str) -> tuple[Tensor, list[Any]]:
    """A batch of two images of 800 x 1333 with ten boxes each."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        low = torch.rand(10, 2, generator=generator) * torch.tensor([900.0, 500.0])
        box = torch.cat([low, low + 50 + 250 * torch.rand(10, 2, generator=generator)], dim=1)
        truth = InstanceData(bboxes=box, labels=torch.randint(TRAIN_CLASSES, (10,), generator=generator))
        sample = DetDataSample(gt_instances=truth, ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)))
        sample.set_metainfo(dict(img_shape=(800, 1333), batch_input_shape=(800, 1344), pad_shape=(800, 1344)))
        samples.append(sample.to(device))
    return torch.rand(2, 3, 800, 1344, generator=generator).to(device), samples


def train_step(device: str, repeat: int) -> dict[str, list[float]]:
    """Seconds of a whole step, forward, backward and SGD, of both detectors in turn: quartiles."""
    models = {kind: detector(kind, device) for kind in ('stock softmax', 'concurrent softmax')}
    optimizers = {kind: torch.optim.SGD(model.parameters(), lr=1e-4) for kind, model in models.items()}
    data = images(device)

    def step(kind: str) -> None:
        losses, _ = models[kind].parse_losses(models[kind].loss(*data))
        optimizers[kind].zero_grad()
        losses.backward()
        optimizers[kind].step()
        if device == 'cuda':
            torch.cuda.synchronize()

    seconds: dict[str, list[float]] = {kind: [] for kind in models}
    for turn in range(repeat + 1):
        for kind in sorted(models, reverse=bool(turn % 2)):
            seconds[kind].append(measure.stopwatch(lambda kind=kind: step(kind))[0])  # type: ignore[misc]
    return {kind: np.quantile(taken[1:], [0.25, 0.5, 0.75]).tolist() for kind, taken in seconds.items()}


def show(results: list[dict[str, Any]]) -> None:
    table = []
    for row in results:
        base = row['losses']['cross-entropy']
        for name, figures in row['losses'].items():
            cells = [f'{figures[key]:,.2f} ({figures[key] / base[key]:.2f}x)' for key in ('milliseconds', 'peak_mib')]
            table.append((name, row['device'], f'{row["rows"]:,}', f'{row["classes"]:,}', *cells))
    measure.show('Forward and backward', ('loss', 'device', 'N', 'C', 'ms', 'peak MiB'), table)


def main() -> None:
    args = parse_args()
    devices = ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]
    rows = [row for device in devices for row in run(args, device)]
    show(rows)
    results: dict[str, Any] = {'machine': measure.machine(), 'threads': torch.get_num_threads(), 'losses': rows}
    if args.train_step:
        results['train_step'] = {device: train_step(device, args.steps) for device in devices}
        for device, kinds in results['train_step'].items():
            for kind, (low, median, high) in kinds.items():
                print(f'R-50, 2 x 800 x 1333, {device}, {kind}: {median:.3f} s a step ({low:.3f} - {high:.3f})')
    measure.write_json(args.out, results)
    print(f'{args.out}: the same as JSON')


if __name__ == '__main__':
    main()
