"""mmoid: object detection on Open Images and similar data, with MMDetection 3.x.

``type='mmoid.ConcurrentSoftmaxLoss'`` works in any mmdet config once mmoid is installed: mmengine's registry looks the
name up here. ``import mmoid`` itself loads nothing, so that ``mmoid.openimages`` needs neither torch nor mmdet.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = '0.2.0'

_PUBLIC = {
    'datasets.openimages': ('OpenImagesHierarchyDataset',),
    'datasets.samplers': ('SoftBalanceClassAwareSampler',),
    'engine.hooks': ('ClassOrderCheckHook', 'InvalidLossHook', 'LogHistoryHook'),
    'engine.resume.checkpoint_hook': ('ResumableCheckpointHook',),
    'engine.resume.train_loop': ('ResumableEpochTrainLoop',),
    'engine.schedule.hybrid_schedule': ('HybridSchedule', 'StageRestartLR', 'StageRestartMomentum'),
    'evaluation.challenge_metric': ('OpenImagesChallengeMetric',),
    'evaluation.resumable_test': ('PredictionDump', 'ResumableTestLoop'),
    'models.dense_heads': (
        'LabelSetATSSHead',
        'LabelSetCost',
        'LabelSetDINOHead',
        'LabelSetDeformableDETRHead',
        'LabelSetDynamicSoftLabelAssigner',
        'LabelSetFCOSHead',
        'LabelSetGFLHead',
        'LabelSetRTMDetSepBNHead',
        'LabelSetRetinaHead',
        'LabelSetTOODHead',
        'LabelSetTaskAlignedAssigner',
    ),
    'models.losses.concurrent_softmax': ('ConcurrentSoftmaxLoss', 'DistCELoss', 'SoftmaxLoss'),
    'models.losses.sigmoid': (
        'CoBCELoss',
        'ConcurrentFocalLoss',
        'ConcurrentQualityFocalLoss',
        'LabelSetBCELoss',
        'LabelSetFocalLoss',
    ),
    'models.roi_heads': ('LabelSetBBoxHead', 'LabelSetSampler'),
    'models.test_time_augmentation': ('LabelSetTTAModel',),
}
_MODULE_OF = {name: f'mmoid.{module}' for module, names in _PUBLIC.items() for name in names}

__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    import_module('mmoid.registry')
    return getattr(import_module(_MODULE_OF[name]), name)
