"""What of a run must be as it was, for a checkpoint of it to be resumed exactly."""

from __future__ import annotations

from typing import Any

from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

NAMES = {
    'world_size': 'the number of processes (world size)',
    'batch_size': 'train_dataloader.batch_size',
    'total_batch_size': 'the total batch size (world size x train_dataloader.batch_size)',
    'images': 'the number of images in train_dataloader.dataset',
    'iterations_per_epoch': 'the number of iterations of an epoch',
    'seed': 'randomness.seed',
}


def run_facts(runner: Runner) -> dict[str, Any]:
    """The values of :data:`NAMES`, and ``sampler``, the type of the one in use; written into checkpoints."""
    loader = runner.train_dataloader
    batch_size = getattr(loader.batch_sampler, 'batch_size', loader.batch_size)
    return dict(
        world_size=runner.world_size,
        batch_size=batch_size,
        total_batch_size=runner.world_size * batch_size,
        images=len(loader.dataset),
        iterations_per_epoch=len(loader),
        seed=runner.seed,
        sampler=type(loader.batch_sampler.sampler).__name__,
    )


def require_same_run(saved: dict[str, Any], own: dict[str, Any], inside_epoch: bool) -> None:
    """Compares the facts of a checkpoint with those of the run that is to go on from it.

    Between two epochs it is enough that the total batch size is the same: then learning rates and schedules stay
    right, and an epoch's images are dealt out anew among the ranks. Inside an epoch that would repeat some images and
    leave out others.

    Raises:
        ValueError: A fact differs that must not.
    """
    sizes = ('world_size', 'batch_size') if inside_epoch else ('total_batch_size',)
    for fact in (*sizes, 'images', 'iterations_per_epoch', 'seed'):
        if saved[fact] == own[fact]:
            continue
        place, others = 'at the end of an epoch', ''
        if inside_epoch:
            place = 'inside an epoch'
            if fact in sizes and saved['total_batch_size'] == own['total_batch_size']:
                others = ' or resume from a checkpoint at the end of an epoch (epoch_*.pth),'
        raise ValueError(
            f'cannot resume: {NAMES[fact]} is {own[fact]}, and was {saved[fact]} when the checkpoint was written '
            f'{place}. Make it {saved[fact]} again,{others} or begin a new run from its weights: load_from=…, '
            'resume=False'
        )


def gradients_pending(runner: Runner) -> bool:
    """Whether gradients were accumulated that no optimizer step has used; each rank holds its own part of them."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.optim_wrappers.values() if isinstance(wrapper, OptimWrapperDict) else (wrapper,)
    return any(not each.should_update() for each in wrappers)
