"""Model parts, registered with mmdet."""

from mmoid.models.losses import (
    CoBCELoss,
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
    'ConcurrentSoftmaxLoss',
    'DistCELoss',
    'LabelSetBBoxHead',
    'LabelSetBCELoss',
    'LabelSetFocalLoss',
    'LabelSetSampler',
    'LabelSetTTAModel',
    'SoftmaxLoss',
]
