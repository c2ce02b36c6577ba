"""Model parts, registered with mmdet."""

from .losses import CoBCELoss, ConcurrentSoftmaxLoss, DistCELoss, LabelSetBCELoss, LabelSetFocalLoss, SoftmaxLoss
from .roi_heads import LabelSetBBoxHead, LabelSetSampler
from .test_time_augmentation import LabelSetTTAModel

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
