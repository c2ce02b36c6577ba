"""Classification losses, each as a module for configs and as a pure function."""

from .concurrent import ConcurrentSoftmaxLoss
from .functional import concurrent_softmax, concurrent_softmax_loss
from .label_set_loss import LabelSetLoss
from .rates_loss import RatesLoss
from .sigmoid import CoBCELoss, LabelSetBCELoss, LabelSetFocalLoss
from .softmax import DistCELoss, SoftmaxLoss

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
