"""Settings that cannot work, found before the first iteration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner

REQUIRED_HOOKS = {
    'runtime_info': 'the log has no learning rate without it',
    'param_scheduler': 'the learning rate would not change',
    'sampler_seed': 'each epoch would have the images in the same order',
}
SCALARS = {
    'OpenImagesChallengeMetric': r'mAP(_(rare|common|frequent|head|middle|tail|untrained|leaf|parent|level\d+))?|'
    'multi_label_recall',
    'OpenImagesMetric': r'mAP|AP\d+',
    'VOCMetric': r'mAP|AP\d+',
    'CocoMetric': r'(bbox|segm|proposal|proposal_fast)_.+|AR@\d+',
    'LVISMetric': r'(bbox|segm|proposal|proposal_fast)_.+|AR@\d+',
}
"""Names that these metrics give, without their prefix; others may give any."""


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


def require_scores_of_hooks(hooks: Iterable[Hook], evaluator: Evaluator) -> None:
    """:func:`require_scores` of hooks that keep the best checkpoint or stop early; mmengine ignores a wrong one."""
    for hook in hooks:
        name = type(hook).__name__
        if isinstance(hook, CheckpointHook) and hook.save_best:
            require_scores(hook.save_best, f'save_best of {name}', evaluator)
        elif isinstance(hook, EarlyStoppingHook):
            require_scores([hook.monitor], f'monitor of {name}', evaluator)


def require_scores(names: Iterable[str], key: str, evaluator: Evaluator) -> None:
    """Checks the names of scores, such as those in ``save_best``.

    Raises:
        ValueError: No metric of the evaluator can give one of them.
    """
    kinds = [type(metric).__name__ for metric in evaluator.metrics]
    prefixes = [f'{metric.prefix}/' if metric.prefix else '' for metric in evaluator.metrics]
    scores = '|'.join(f'{re.escape(prefix)}({SCALARS.get(kind, ".+")})' for prefix, kind in zip(prefixes, kinds))
    for name in names:
        if name != 'auto' and not re.fullmatch(scores, name):
            given = ', '.join(f'{kind} gives {prefix}...' for prefix, kind in zip(prefixes, kinds))
            known = [f'{prefix}mAP' for prefix, kind in zip(prefixes, kinds) if 'mAP' in SCALARS.get(kind, '')]
            raise ValueError(
                f'{key} is {name!r}, but no metric of val_evaluator gives a score of this name: {given}'
                f'{f"; did you mean {known[0]!r}?" if known else ""}'
            )
