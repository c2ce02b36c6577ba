"""Settings that cannot work, found before the first iteration."""

from __future__ import annotations

import re
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner

REQUIRED_HOOKS = {
    'runtime_info': 'the log has no learning rate without it',
    'param_scheduler': 'the learning rate would not change',
    'sampler_seed': 'each epoch would have the images in the same order',
}


def type_name(kind: Any) -> str:
    """``'SyncBN'`` for the ``type`` of a config: a name, a name with a module or scope, or a class."""
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))).rsplit('.', 1)[-1]


def remove_default_hooks(cfg: Config) -> None:
    """Removes the default hooks that are None, which mmengine does only for its own.

    Raises:
        ValueError: A hook without which the settings have no effect.
    """
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None]:
        if name in REQUIRED_HOOKS and cfg.get('train_cfg'):
            raise ValueError(f'default_hooks.{name} is None: {REQUIRED_HOOKS[name]}; remove this line')
        if name not in ('timer', 'logger', 'checkpoint', *REQUIRED_HOOKS):
            del hooks[name]


def require_trainable(runner: Runner, loop: BaseLoop) -> None:
    """Checks the training loop before anything is trained.

    Raises:
        ValueError: An empty data set, an endless sampler in an epoch-based loop, or an iteration-based loop with a
            checkpoint hook that counts epochs.
    """
    for hook in runner.hooks if isinstance(loop, IterBasedTrainLoop) else ():
        if isinstance(hook, CheckpointHook) and hook.by_epoch:
            raise ValueError(
                f'default_hooks.checkpoint ({type(hook).__name__}) saves by epochs, but train_cfg.type is '
                f"{type(loop).__name__}; set default_hooks.checkpoint=dict(_delete_=True, type='CheckpointHook', "
                'by_epoch=False, interval=...)'
            )
    dataset = loop.dataloader.dataset
    if hasattr(dataset, '__len__') and len(dataset) == 0:
        raise ValueError(
            f'train_dataloader.dataset ({type(dataset).__name__}) has no images; check ann_file, filter_cfg and indices'
        )
    sampler = getattr(loop.dataloader.batch_sampler, 'sampler', None)
    endless = re.search('Infinite|MultiSourceSampler', ' '.join(base.__name__ for base in type(sampler).__mro__))
    if isinstance(loop, EpochBasedTrainLoop) and endless:
        raise ValueError(
            f'train_dataloader.sampler is {type(sampler).__name__}, which never ends, but train_cfg.type is '
            f"{type(loop).__name__}; set sampler=dict(type='DefaultSampler', shuffle=True), or train by iterations"
        )
