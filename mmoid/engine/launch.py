"""Code shared by the command-line tools: read a config, build its Runner, join and leave the other processes."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.hooks import LoggerHook
from mmengine.hub import get_config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmoid.engine.resume.checkpoints import allow_checkpoint_globals

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def load_config(
    path: str | Path, cfg_options: dict[str, Any] | None = None, work_dir: str | None = None, launcher: str = 'none'
) -> Config:
    """Reads a config as mmdet's tools do.

    Args:
        path: The config file, or the name of a package's recipe such as ``mmoid::openimages/<name>.py``.
        cfg_options: Overrides by dotted key (``--cfg-options``).
        work_dir: By default that of the config, else ``work_dirs/<name of the config>``.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
    """
    import_module('mmoid.registry')  # mmengine finds the recipes of mmoid:: from here on
    cfg = get_config(str(path)) if '::' in str(path) else Config.fromfile(path)
    cfg.launcher = launcher
    if cfg_options is not None:
        cfg.merge_from_dict(cfg_options)
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(path).stem)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Builds the Runner of a config, with or without CUDA."""
    prepare_launch(cfg)
    allow_checkpoint_globals()
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for hook in runner.hooks:
        if isinstance(hook, LoggerHook):
            # All ranks write <timestamp>.json at the same time otherwise, which sometimes leaves it unreadable.
            hook.after_test_epoch = master_only(hook.after_test_epoch)
    return runner


def end_launch() -> None:
    """Leaves the process group at the end of a successful run. After an error this could wait for the other ranks.

    Otherwise gloo threads may hold tensors until Python has ended, which can abort a process that has finished
    (https://github.com/pytorch/pytorch/issues/190489).
    """
    gc.collect()  # the model wrapper holds the group too
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def prepare_launch(cfg: Config) -> None:
    """Makes several processes possible without CUDA, over gloo. Call it before the Runner is built.

    mmengine's own launcher would call ``torch.cuda.set_device``, and its default model wrapper would pass device ids.

    Raises:
        ValueError: ``mpi`` without CUDA, or ``slurm`` outside of a Slurm job.
    """
    if cfg.launcher == 'pytorch' and sys.platform == 'linux':
        # A launcher that is killed cannot stop its ranks, so the kernel does.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if cfg.launcher == 'slurm':
        set_slurm_variables()
    if torch.cuda.is_available() or cfg.launcher == 'none':
        return
    if cfg.launcher not in ('pytorch', 'slurm'):
        raise ValueError(f'--launcher {cfg.launcher} needs CUDA; use --launcher pytorch (tools/dist_train.sh)')
    if not torch.distributed.is_initialized():
        dist_cfg = cfg.get('env_cfg', {}).get('dist_cfg', {})
        if cfg.launcher == 'slurm' and 'port' in dist_cfg:
            os.environ['MASTER_PORT'] = str(dist_cfg['port'])
        seconds = dist_cfg.get('timeout')
        torch.distributed.init_process_group('gloo', timeout=seconds and timedelta(seconds=seconds))
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    # Without device_ids, DDP leaves the model on the CPU.
    cfg.model_wrapper_cfg = {**wrapper, **(cfg.get('model_wrapper_cfg') or {}), 'device_ids': None}
    cfg.sync_bn = None  # torch has no SyncBN for the CPU: each process normalises by its own images


def set_slurm_variables() -> None:
    """Sets the environment variables that torch reads from those of Slurm.

    Raises:
        ValueError: This process was not started by ``srun``.
    """
    try:
        for name, slurm in (('RANK', 'PROCID'), ('WORLD_SIZE', 'NTASKS'), ('LOCAL_RANK', 'LOCALID')):
            os.environ[name] = os.environ[f'SLURM_{slurm}']
        nodes = os.environ['SLURM_NODELIST']
    except KeyError as error:
        raise ValueError(
            f'--launcher slurm: {error.args[0]} is not set, so srun did not start this process; use '
            'tools/slurm_train.sh, or tools/dist_train.sh outside of Slurm'
        ) from None
    os.environ.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' not in os.environ:
        hosts = subprocess.run(['scontrol', 'show', 'hostnames', nodes], capture_output=True, text=True, check=True)
        os.environ['MASTER_ADDR'] = hosts.stdout.split()[0]
