"""Model parts, registered with mmdet."""

from .losses import CoBCELoss, ConcurrentSoftmaxLoss, DistCELoss, LabelSetBCELoss, LabelSetFocalLoss, SoftmaxLoss
from .roi_heads import LabelSetBBoxHead, LabelSetSampler

__all__ = [
    'CoBCELoss',
    'ConcurrentSoftmaxLoss',
    'DistCELoss',
    'LabelSetBBoxHead',
    'LabelSetBCELoss',
    'LabelSetFocalLoss',
    'LabelSetSampler',
    'SoftmaxLoss',
]
