"""What a run needs from its launcher: process groups without CUDA."""

from __future__ import annotations

import torch
import torch.distributed
from mmengine.config import Config


def prepare_launch(cfg: Config) -> None:
    """Makes ``cfg`` run on what the machine has; to be called before the Runner is built.

    With CUDA there is nothing to do. Without it, N processes of torchrun talk over gloo: mmengine's own launcher
    would call ``torch.cuda.set_device``, and its default model wrapper would pass device ids.
    """
    if torch.cuda.is_available() or cfg.launcher == 'none':
        return
    if cfg.launcher != 'pytorch':
        raise ValueError(
            f'--launcher {cfg.launcher} needs CUDA; without it use --launcher pytorch (tools/dist_train.sh)'
        )
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    # Without device_ids DDP takes the model where it is.
    cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
