"""Settings that turn the test of a config into one that writes predictions, augments images, or has other images."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config, ConfigDict

from mmoid.engine.settings import type_name


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
