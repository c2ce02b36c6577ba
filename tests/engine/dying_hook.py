"""A hook that ends a rank in the middle of a run, and makes iterations longer."""

from __future__ import annotations

import os
import signal
import time

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Dying(Hook):
    """Ends ``rank`` before iteration ``at`` of the run, ``how`` = 'SIGKILL' or 'exception'; None to end none.

    The other ranks have started the iteration and wait in the all-reduce of its gradients.
    """

    priority = 'VERY_LOW'

    def __init__(self, how: str | None = None, rank: int = 0, at: int = 8, pause: float = 0.0) -> None:
        self.how, self.rank, self.at, self.pause = how, rank, at, pause

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        time.sleep(self.pause)
        if self.how is None or runner.iter != self.at or get_rank() != self.rank:
            return
        time.sleep(0.5)
        if self.how == 'SIGKILL':
            os.kill(os.getpid(), signal.SIGKILL)
        raise ArithmeticError('the test ends this rank')
