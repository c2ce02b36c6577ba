"""Model parts, registered with mmdet."""

from mmoid.models.dense_heads import (
    LabelSetATSSHead,
    LabelSetCost,
    LabelSetDeformableDETRHead,
    LabelSetDINOHead,
    LabelSetDynamicSoftLabelAssigner,
    LabelSetFCOSHead,
    LabelSetGFLHead,
    LabelSetRetinaHead,
    LabelSetRTMDetSepBNHead,
    LabelSetTaskAlignedAssigner,
    LabelSetTOODHead,
)
from mmoid.models.losses import (
    CoBCELoss,
    ConcurrentFocalLoss,
    ConcurrentQualityFocalLoss,
    ConcurrentSoftmaxLoss,
    DistCELoss,
    LabelSetBCELoss,
    LabelSetFocalLoss,
    SoftmaxLoss,
)
from mmoid.models.roi_heads import LabelSetBBoxHead, LabelSetSampler
from mmoid.models.test_time_augmentation import LabelSetTTAModel

__all__ = [
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
]
