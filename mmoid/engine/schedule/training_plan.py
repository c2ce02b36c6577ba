"""The stages and learning rates of a whole training, computed from its config."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from mmoid.engine.schedule.hybrid_schedule import Stage, parse_stages, require_epochs, schedule, stages_of_config


@dataclass(frozen=True)
class TrainingPlan:
    """The plan of a training."""

    stages: tuple[Stage, ...]  # one, named ``training``, for a config without :class:`HybridSchedule`
    batch_size: int  # images per iteration, over all processes
    epoch_length: int  # iterations per epoch
    lr: np.ndarray  # (epochs x epoch_length,) float64 of each iteration, without the factors of ``paramwise_cfg``


def plan_training(cfg: Config, num_images: int, world_size: int = 1) -> TrainingPlan:
    """Computes stages and learning rates as in mmengine's Runner.

    ``num_images`` is the size of the training set after its filters, ``world_size`` the number of processes (GPUs).

    Raises:
        ValueError: As for :class:`HybridSchedule`, or without ``train_cfg.max_epochs``.
    """
    epochs = cfg.train_cfg.get('max_epochs')
    if epochs is None:
        raise ValueError('train_cfg.max_epochs is not set; only a training by epochs can be planned')
    loader = cfg.train_dataloader
    samples = math.ceil((loader.get('sampler', {}).get('samples_per_epoch') or num_images) / world_size)
    drops_last = (loader.get('batch_sampler') or loader).get('drop_last', False)
    epoch_length = samples // loader.batch_size if drops_last else math.ceil(samples / loader.batch_size)
    epoch_length = min(epoch_length, loader.get('num_batch_per_epoch') or epoch_length)
    stages = stages_of_config(cfg) or parse_stages([dict(name='training', epochs=epochs)])
    require_epochs(stages, epochs)
    by_stage = any(stage.param_scheduler for stage in stages)
    schedulers = schedule(stages, epoch_length) if by_stage else cfg.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    batch_size, initial_lr = world_size * loader.batch_size, cfg.optim_wrapper.optimizer.lr
    scaling = cfg.get('auto_scale_lr') or {}
    if scaling.get('enable', False):
        initial_lr *= batch_size / scaling['base_batch_size']
    lr = learning_rates(schedulers, initial_lr, epochs, epoch_length)
    return TrainingPlan(stages, batch_size, epoch_length, lr)


def learning_rates(schedulers: Sequence[dict], initial: float, epochs: int, epoch_length: int) -> np.ndarray:
    """(epochs x epoch_length,) learning rate of each iteration: mmengine's schedulers, stepped as its hook does."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=initial, momentum=0.9)
    built: list[Any] = []
    for config in schedulers:
        config = copy.deepcopy(dict(config))
        config.setdefault('end', epochs if config.get('by_epoch', True) else epochs * epoch_length)
        built.append(PARAM_SCHEDULERS.build(config, default_args=dict(optimizer=optimizer, epoch_length=epoch_length)))
    optimizer.step()  # schedulers warn if they are stepped first
    (group,) = optimizer.param_groups
    by_epoch = [scheduler for scheduler in built if scheduler.by_epoch]
    by_iteration = [scheduler for scheduler in built if not scheduler.by_epoch]
    lr = np.empty((epochs, epoch_length))
    for epoch in range(epochs):
        for iteration in range(epoch_length):
            lr[epoch, iteration] = group['lr']
            # After its end a scheduler does nothing; skip it, because an epoch of Open Images has 10^5 iterations.
            by_iteration = [each for each in by_iteration if each.end > epoch * epoch_length + iteration]
            if not by_iteration:
                lr[epoch, iteration:] = group['lr']
                break
            for scheduler in by_iteration:
                scheduler.step()
        for scheduler in by_epoch:
            scheduler.step()
    return lr.ravel()


def lr_spans(plan: TrainingPlan, stage: Stage) -> Iterator[tuple[int, int, float, float]]:
    """Yields (start, stop, lr at start, lr at stop - 1) of the iterations in which it is constant, or changes."""
    offset = stage.start * plan.epoch_length
    lr = plan.lr[offset : stage.stop * plan.epoch_length]
    same = np.diff(lr) == 0
    constant = np.append(False, same) | np.append(same, False)  # for two iterations at least
    begins = np.flatnonzero(np.diff(constant) | (constant[1:] & ~same)) + 1
    for start, stop in pairwise([0, *begins.tolist(), len(lr)]):
        yield offset + start, offset + stop, lr[start], lr[stop - 1]
