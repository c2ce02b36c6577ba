"""The stages and the learning rates of a training over its full length, computed from its config without training."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from mmoid.engine.schedule.stages import Stage, parse_stages, schedule, stages_of_config


@dataclass(frozen=True)
class TrainingPlan:
    """What a training will do.

    Attributes:
        stages: Its stages; one, named ``training``, for a config without :class:`HybridSchedule`.
        batch_size: Images of one iteration, over all processes.
        epoch_length: Iterations of one epoch.
        rates: (epochs x epoch_length,) float64, learning rate of each iteration, that of parameters without a factor
            of their own (``paramwise_cfg``).
    """

    stages: tuple[Stage, ...]
    batch_size: int
    epoch_length: int
    rates: np.ndarray

    def stage_rates(self, stage: Stage) -> np.ndarray:
        """The part of ``rates`` that belongs to a stage."""
        return self.rates[stage.start * self.epoch_length : stage.stop * self.epoch_length]


@dataclass(frozen=True)
class RateSpan:
    """Iterations from ``start``, before ``stop``, in which the rate stays (first = last) or goes from first to last."""

    start: int
    stop: int
    first: float
    last: float


def plan_training(cfg: Config, num_images: int, world_size: int = 1) -> TrainingPlan:
    """Computes stages and rates as mmengine's Runner will go through them.

    Args:
        cfg: The config of a training by epochs.
        num_images: Images of the training set, after its filters.
        world_size: Processes (GPUs).

    Raises:
        ValueError: As for :class:`HybridSchedule`, or without ``train_cfg.max_epochs``.
    """
    epochs = cfg.train_cfg.get('max_epochs')
    if epochs is None:
        raise ValueError('train_cfg.max_epochs is not set: only a training that counts epochs can be planned')
    loader = cfg.train_dataloader
    samples = math.ceil((loader.get('sampler', {}).get('samples_per_epoch') or num_images) / world_size)
    drops_last = (loader.get('batch_sampler') or loader).get('drop_last', False)
    epoch_length = samples // loader.batch_size if drops_last else math.ceil(samples / loader.batch_size)
    epoch_length = min(epoch_length, loader.get('num_batch_per_epoch') or epoch_length)
    stages = stages_of_config(cfg) or parse_stages([dict(name='training', epochs=epochs)])
    if stages[-1].stop != epochs:
        raise ValueError(f'HybridSchedule.stages have {stages[-1].stop} epochs, train_cfg.max_epochs is {epochs}')
    by_stage = any(stage.param_scheduler for stage in stages)
    schedulers = schedule(stages, epoch_length) if by_stage else cfg.get('param_scheduler') or []
    batch_size = world_size * loader.batch_size
    rates = learning_rates(
        [schedulers] if isinstance(schedulers, dict) else schedulers, _rate(cfg, batch_size), epochs, epoch_length
    )
    return TrainingPlan(stages, batch_size, epoch_length, rates)


def learning_rates(schedulers: Sequence[dict], rate: float, epochs: int, epoch_length: int) -> np.ndarray:
    """(epochs x epoch_length,) learning rate of each iteration: mmengine's schedulers, stepped as its hook does.

    Args:
        schedulers: Their configs, ``param_scheduler``.
        rate: The initial learning rate.
        epochs: Epochs of the training.
        epoch_length: Iterations of each.
    """
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate, momentum=0.9)
    built: list[Any] = []
    for config in schedulers:
        config = copy.deepcopy(dict(config))
        config.setdefault('end', epochs if config.get('by_epoch', True) else epochs * epoch_length)
        built.append(PARAM_SCHEDULERS.build(config, default_args=dict(optimizer=optimizer, epoch_length=epoch_length)))
    optimizer.step()  # schedulers warn if they are stepped first
    (group,) = optimizer.param_groups
    by_epoch = [scheduler for scheduler in built if scheduler.by_epoch]
    by_iteration = [scheduler for scheduler in built if not scheduler.by_epoch]
    rates = np.empty((epochs, epoch_length))
    for epoch in range(epochs):
        for iteration in range(epoch_length):
            rates[epoch, iteration] = group['lr']
            # Past its end a scheduler does nothing any more; an epoch of Open Images has 10^5 iterations.
            by_iteration = [each for each in by_iteration if each.end > epoch * epoch_length + iteration]
            if not by_iteration:
                rates[epoch, iteration:] = group['lr']
                break
            for scheduler in by_iteration:
                scheduler.step()
        for scheduler in by_epoch:
            scheduler.step()
    return rates.ravel()


def rate_spans(rates: np.ndarray) -> Iterator[RateSpan]:
    """Splits the rates of consecutive iterations into stretches in which they stay and stretches in which they move."""
    changes = np.flatnonzero(np.diff(rates)) + 1
    edges = np.concatenate([[0], changes, [len(rates)]])
    start = 0
    for low, high in zip(edges, edges[1:]):
        if high - low == 1 and high < len(rates):
            continue  # a moving stretch goes on until the rate stays for two iterations
        if low > start:
            yield RateSpan(start, int(low), float(rates[start]), float(rates[low - 1]))
        yield RateSpan(int(low), int(high), float(rates[low]), float(rates[high - 1]))
        start = int(high)


def _rate(cfg: Config, batch_size: int) -> float:
    """Initial rate, scaled as the Runner does under ``auto_scale_lr.enable``."""
    rate: float = cfg.optim_wrapper.optimizer.lr
    scaling = cfg.get('auto_scale_lr') or {}
    return rate * batch_size / scaling['base_batch_size'] if scaling.get('enable', False) else rate
