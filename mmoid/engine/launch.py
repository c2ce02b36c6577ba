"""What the command-line tools share: reading a config with its overrides, and a Runner for it."""

from __future__ import annotations

import gc
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.hooks import LoggerHook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmoid.engine.rank_process import answer_to_torchrun, choose_gloo_interface, name_slurm_ranks


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
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    leave_figures_to_rank_0(runner)
    return runner


def end_launch() -> None:
    """Leaves the other ranks; for the end of a run that went well, since after an error it may wait for them for long.

    Without it threads of gloo may hold tensors until Python has ended, which can abort a process whose work is done
    (https://github.com/pytorch/pytorch/issues/190489).
    """
    gc.collect()  # the model's wrapper holds the group too
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def leave_figures_to_rank_0(runner: Runner) -> None:
    """Lets rank 0 alone write ``<timestamp>.json``, the figures of a test.

    mmengine's LoggerHook lets all ranks write that file at the same time, which now and then leaves it unreadable.
    """
    for hook in runner.hooks:
        if isinstance(hook, LoggerHook):
            hook.after_test_epoch = master_only(hook.after_test_epoch)


def prepare_launch(cfg: Config) -> None:
    """Makes several processes possible without CUDA; to be called before the Runner is built.

    With CUDA mmengine does it. Without it, the processes of torchrun or Slurm talk over gloo: mmengine's own launcher
    would call ``torch.cuda.set_device``, and its default model wrapper would pass device ids.

    Raises:
        ValueError: ``mpi`` without CUDA; ``slurm`` outside of a Slurm job.
    """
    if cfg.launcher == 'pytorch':
        answer_to_torchrun()
    if cfg.launcher == 'slurm':
        name_slurm_ranks()
    if torch.cuda.is_available() or cfg.launcher == 'none':
        return
    if cfg.launcher not in ('pytorch', 'slurm'):
        raise ValueError(
            f'--launcher {cfg.launcher} needs CUDA; without it use --launcher pytorch (tools/dist_train.sh)'
        )
    if not torch.distributed.is_initialized():
        choose_gloo_interface(os.environ.get('MASTER_ADDR', 'localhost'))
        settings = cfg.get('env_cfg', {}).get('dist_cfg', {})
        if cfg.launcher == 'slurm' and 'port' in settings:
            os.environ['MASTER_PORT'] = str(settings['port'])
        seconds = settings.get('timeout')
        torch.distributed.init_process_group('gloo', timeout=seconds and timedelta(seconds=seconds))
    # Without device_ids DDP takes the model where it is.
    cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
    cfg.sync_bn = None  # torch has none for the CPU: each process normalises by its own images
