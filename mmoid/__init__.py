"""mmoid: object detection on Open Images and similar data, with MMDetection 3.x.

``type='mmoid.ConcurrentSoftmaxLoss'`` works in any mmdet config once mmoid is installed: mmengine's registry looks the
name up here. ``import mmoid`` itself loads nothing, so that ``mmoid.openimages`` needs neither torch nor mmdet.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = '0.2.0'

_PUBLIC = {
    'mmoid.datasets': ('OpenImagesHierarchyDataset', 'SoftBalanceClassAwareSampler'),
    'mmoid.engine': (
        'ClassOrderCheckHook',
        'HybridSchedule',
        'InvalidLossHook',
        'LogHistoryHook',
        'ResumableCheckpointHook',
        'ResumableEpochTrainLoop',
        'StageRestartLR',
    ),
    'mmoid.evaluation': ('OpenImagesChallengeMetric', 'PredictionDump', 'ResumableTestLoop'),
    'mmoid.models': (
        'CoBCELoss',
        'ConcurrentFocalLoss',
        'ConcurrentQualityFocalLoss',
        'ConcurrentSoftmaxLoss',
        'DistCELoss',
        'LabelSetATSSHead',
        'LabelSetBBoxHead',
        'LabelSetBCELoss',
        'LabelSetCost',
        'LabelSetDINOHead',
        'LabelSetDeformableDETRHead',
        'LabelSetDynamicSoftLabelAssigner',
        'LabelSetFCOSHead',
        'LabelSetFocalLoss',
        'LabelSetGFLHead',
        'LabelSetRTMDetSepBNHead',
        'LabelSetRetinaHead',
        'LabelSetSampler',
        'LabelSetTOODHead',
        'LabelSetTTAModel',
        'LabelSetTaskAlignedAssigner',
        'SoftmaxLoss',
    ),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    import_module('mmoid.registry')
    return getattr(import_module(_MODULE_OF[name]), name)
