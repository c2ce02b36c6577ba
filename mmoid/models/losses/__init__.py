"""Classification losses, each as a module for configs and as a pure function."""

from mmoid.models.losses.concurrent import ConcurrentSoftmaxLoss
from mmoid.models.losses.functional import concurrent_softmax, concurrent_softmax_loss
from mmoid.models.losses.label_set_loss import LabelSetLoss
from mmoid.models.losses.rates_loss import RatesLoss
from mmoid.models.losses.sigmoid import CoBCELoss, LabelSetBCELoss, LabelSetFocalLoss
from mmoid.models.losses.softmax import DistCELoss, SoftmaxLoss

__all__ = [
    'CoBCELoss',
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
