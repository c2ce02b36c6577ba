"""Classification losses on label sets; the concurrent softmax also as pure functions."""

from mmoid.models.losses.base import LabelSetLoss, RatesLoss
from mmoid.models.losses.concurrent_softmax import ConcurrentSoftmaxLoss, concurrent_softmax, concurrent_softmax_loss
from mmoid.models.losses.sigmoid import (
    CoBCELoss,
    ConcurrentFocalLoss,
    ConcurrentQualityFocalLoss,
    LabelSetBCELoss,
    LabelSetFocalLoss,
)
from mmoid.models.losses.softmax import DistCELoss, SoftmaxLoss

__all__ = [
    'CoBCELoss',
    'ConcurrentFocalLoss',
    'ConcurrentQualityFocalLoss',
    'ConcurrentSoftmaxLoss',
    'DistCELoss',
    'LabelSetBCELoss',
    'LabelSetFocalLoss',
    'LabelSetLoss',
    'RatesLoss',
    'SoftmaxLoss',
    'concurrent_softmax',
    'concurrent_softmax_loss',
]
