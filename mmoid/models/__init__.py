"""Model parts, registered with mmdet."""

from .losses import ConcurrentSoftmaxLoss, SoftmaxLoss
from .roi_heads import LabelSetBBoxHead, LabelSetSampler

__all__ = ['ConcurrentSoftmaxLoss', 'LabelSetBBoxHead', 'LabelSetSampler', 'SoftmaxLoss']
