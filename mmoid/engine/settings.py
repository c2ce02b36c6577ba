"""Settings that cannot work, found before the first iteration; and those that write, augment or choose test images."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from mmengine.config import Config, ConfigDict
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
    'VOCMetric': r'mAP|AP\d+|AR@\d+|recall@.+',
    'CocoMetric': r'(bbox|segm|proposal|proposal_fast)_.+|AR@\d+|.+_precision',  # the last with classwise=True
    'LVISMetric': r'(bbox|segm|proposal|proposal_fast)_.+|AR@\d+|.+_precision',
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
    if isinstance(loop, EpochBasedTrainLoop):
        require_end(getattr(loop.dataloader.batch_sampler, 'sampler', None), 'train_dataloader.sampler')


def require_end(sampler: Any, key: str) -> None:
    """Raises a ValueError for a sampler that never ends, for a train loop by epochs."""
    if re.search('Infinite|MultiSourceSampler', ' '.join(base.__name__ for base in type(sampler).__mro__)):
        raise ValueError(
            f'{key} is {type(sampler).__name__}, which never ends, but the train loop is by epochs; set '
            "type='DefaultSampler', shuffle=True, or train by iterations"
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


def enable_out(cfg: Config, out: str, restart: bool = False) -> None:
    """What ``--out`` does: the test writes a PredictionStore and can be resumed.

    Raises:
        ValueError: A file for pickles, or a config with a test loop of its own.
    """
    if out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out {out}: give a folder for Arrow files; pickle files are not supported')
    loop = cfg.get('test_cfg') or {}
    kind = type_name(loop.get('type', 'TestLoop'))
    if kind not in ('TestLoop', 'ResumableTestLoop'):
        raise ValueError(f'--out needs test_cfg.type TestLoop, the config has {kind}')
    cfg.test_cfg = {**loop, 'type': 'mmoid.ResumableTestLoop'}
    evaluators = cfg.get('test_evaluator') or []
    evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
    dump = dict(type='mmoid.PredictionDump', out=out, restart=restart)
    for evaluator in evaluators:
        if evaluator.get('expand_detections'):  # what is evaluated is what is written
            dump |= dict(ancestors_of=evaluator.ann_file, ancestor_nms=evaluator.get('ancestor_nms', 0.5))
    cfg.test_evaluator = [*evaluators, dump]


def enable_tta(cfg: Config) -> None:
    """What ``--tta`` does: wraps the model in ``tta_model``. The defaults are those of mmdet: flips, merged by NMS."""
    dataset = _test_dataset(cfg)
    if 'tta_model' not in cfg:
        rcnn = cfg.model.get('test_cfg', {}).get('rcnn') or cfg.model.get('test_cfg', {})
        nms = dict(type='nms', iou_threshold=0.5)
        cfg.tta_model = dict(
            type='mmoid.LabelSetTTAModel', tta_cfg=dict(nms=nms, max_per_img=rcnn.get('max_per_img', 300))
        )
    if 'tta_pipeline' not in cfg:
        # Without ground truth, which would be that of a flipped view.
        *load, pack = (step for step in dataset.pipeline if type_name(step.type) != 'LoadAnnotations')
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        flips = [dict(type='mmdet.RandomFlip', prob=prob) for prob in (1.0, 0.0)]
        packs = [dict(type=pack.type, meta_keys=keys)]
        cfg.tta_pipeline = [*load, dict(type='TestTimeAug', transforms=[flips, packs])]
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def predict_on(cfg: Config, store: str, batch_size: int | None = None) -> None:
    """Makes a store without annotations the test set of a config, with the config's pipeline and loader.

    Args:
        cfg: The config. Its own data need not exist.
        store: The store, with the classes of the model.
        batch_size: None: that of the config.

    Raises:
        ValueError: The config has no ``test_dataloader``.
    """
    if not cfg.get('test_dataloader'):
        raise ValueError('test_dataloader: the config has none, and its pipeline is needed')
    own = _test_dataset(cfg)
    dataset = dict(type='mmoid.OpenImagesHierarchyDataset', ann_file=store, test_mode=True)
    dataset['pipeline'] = [step for step in own.pipeline if 'Annotations' not in type_name(step.type)]
    if 'return_classes' in own:  # of grounding detectors
        dataset['return_classes'] = own.return_classes
    loader = {key: value for key, value in cfg.test_dataloader.items() if key not in ('batch_sampler', 'dataset')}
    loader |= dict(sampler=dict(type='DefaultSampler', shuffle=False), drop_last=False, dataset=dataset)
    if batch_size is not None:
        loader['batch_size'] = batch_size
    cfg.test_dataloader = loader


def _test_dataset(cfg: Config) -> Any:
    """The data set of the test, without wrappers."""
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset
