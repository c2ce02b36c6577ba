"""Classification losses, each as a module for configs and as a pure function."""

from .concurrent import ConcurrentSoftmaxLoss
from .functional import concurrent_softmax, concurrent_softmax_loss
from .label_set_loss import LabelSetLoss
from .softmax import SoftmaxLoss

__all__ = ['ConcurrentSoftmaxLoss', 'LabelSetLoss', 'SoftmaxLoss', 'concurrent_softmax', 'concurrent_softmax_loss']
