"""What the command-line tools share: reading a config with its overrides, and a Runner for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner


def load_config(
    path: str | Path, cfg_options: dict[str, Any] | None = None, work_dir: str | None = None, launcher: str = 'none'
) -> Config:
    """Reads a config as mmdet's tools do.

    Args:
        path: The config file.
        cfg_options: Overrides by dotted key (``--cfg-options``).
        work_dir: By default that of the config, else ``work_dirs/<name of the config>``.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
    """
    cfg = Config.fromfile(path)
    cfg.launcher = launcher
    if cfg_options is not None:
        cfg.merge_from_dict(cfg_options)
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(path).stem)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Builds the Runner of a config, on whatever the machine has."""
    prepare_launch(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def prepare_launch(cfg: Config) -> None:
    """Makes several processes possible without CUDA; to be called before the Runner is built.

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
