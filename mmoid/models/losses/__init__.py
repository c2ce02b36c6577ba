"""Classification losses on label sets; the concurrent softmax also as pure functions."""

from mmoid.models.losses.concurrent_softmax import concurrent_softmax, concurrent_softmax_loss

__all__ = ['concurrent_softmax', 'concurrent_softmax_loss']
