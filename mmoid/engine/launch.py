"""Code shared by the command-line tools: read a config, build its Runner, join and leave the other processes."""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mmengine.config import Config, DictAction
from mmengine.dist import master_only
from mmengine.hooks import LoggerHook
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner, ValLoop
from torch.utils.data import DataLoader

from mmoid.engine.resume.checkpoint_hook import allow_checkpoint_globals
from mmoid.engine.settings import remove_default_hooks, require_scores_of_hooks, require_trainable, type_name
from mmoid.openimages.errors import AnnotationError

PACKAGE = Path(__file__).parents[1]
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Overrides(DictAction):
    """mmengine's ``DictAction``; what is no ``key=value`` is an error of one line."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, *others: Any) -> None:
        try:
            super().__call__(parser, namespace, values, *others)
        except (ValueError, AssertionError) as error:
            parser.error(f'--cfg-options {" ".join(values)}: expected key=value pairs ({error})')


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--cfg-options``, as mmdet's tools have it."""
    options_help = 'override settings of the config, as key=value pairs: train_dataloader.batch_size=4'
    parser.add_argument('--cfg-options', nargs='+', action=Overrides, help=options_help)


def parse_run_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses the command line of a run, with the options that all runs have."""
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # torch.distributed.launch passes it, torchrun does not.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def load_config(
    path: str | Path, cfg_options: dict[str, Any] | None = None, work_dir: str | None = None, launcher: str = 'none'
) -> Config:
    """Reads a config as mmdet's tools do.

    Args:
        path: The config file, or the name of a package's recipe such as ``mmoid::openimages/<name>.py``.
        cfg_options: Overrides by dotted key (``--cfg-options``).
        work_dir: By default that of the config, else ``work_dirs/<name of the config>``.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.

    Raises:
        ValueError: The file or the overrides cannot be read.
    """
    import_module('mmoid.registry')  # mmengine finds the recipes of mmoid:: from here on
    source = str(path)
    try:
        cfg = get_config(source) if '::' in source else Config.fromfile(path)
        source = '--cfg-options'
        cfg.merge_from_dict(cfg_options or {})
    except Exception as error:  # a config is Python, so this may be any exception
        raise ValueError(f'{source}: {type(error).__name__}: {error}') from error
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(path).stem)
    return cfg


def enable_amp(cfg: Config) -> None:
    """What ``--amp`` does.

    Raises:
        ValueError: An ``optim_wrapper`` other than ``OptimWrapper``.
    """
    kind = type_name(cfg.optim_wrapper.get('type', 'OptimWrapper'))
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ValueError(f'--amp needs optim_wrapper.type OptimWrapper, the config has {kind}')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def enable_auto_scale_lr(cfg: Config) -> None:
    """What ``--auto-scale-lr`` does; a ValueError if the config has no ``auto_scale_lr.base_batch_size``."""
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ValueError('--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=...) in the config')
    cfg.auto_scale_lr.enable = True


class CheckedRunner(Runner):
    """mmengine's Runner, with checks of its settings; SyncBN becomes BN where there is no CUDA."""

    def wrap_model(self, model_wrapper_cfg: dict | None, model: torch.nn.Module) -> torch.nn.Module:
        if self.distributed and not torch.cuda.is_available():
            if self.cfg.get('sync_bn') or any(type(part).__name__ == 'SyncBatchNorm' for part in model.modules()):
                self.logger.warning('SyncBN needs CUDA: each process normalises by its own images, as BN')
            self.cfg.sync_bn, model = None, revert_sync_batchnorm(model)
        return super().wrap_model(model_wrapper_cfg, model)

    def build_train_loop(self, loop: Any) -> BaseLoop:
        built = super().build_train_loop(loop)
        require_trainable(self, built)
        return built

    def build_val_loop(self, loop: Any) -> BaseLoop:
        built = super().build_val_loop(loop)
        if isinstance(built, ValLoop):
            require_scores_of_hooks(self.hooks, built.evaluator)
        return built


def build_runner(cfg: Config) -> Runner:
    """Builds the Runner of a config, with or without CUDA. Checkpoints are read without unpickling."""
    prepare_launch(cfg)
    remove_default_hooks(cfg)
    allow_checkpoint_globals()
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else CheckedRunner.from_cfg(cfg)
    for hook in runner.hooks:
        if isinstance(hook, LoggerHook):
            # All ranks write <timestamp>.json at the same time otherwise, which sometimes leaves it unreadable.
            hook.after_test_epoch = master_only(hook.after_test_epoch)
    return runner


@contextmanager
def one_line_error() -> Iterator[None]:
    """Ends the process with one line ``error: ...`` and status 1 after an error that explains itself.

    These are errors that our code raises, a config that cannot be read, and a file or folder that cannot be used.
    Others keep their traceback.
    """
    try:
        yield
    except Exception as error:
        try:
            line = _line_of(error)
        except RuntimeError as late:  # torch reports a dead loader worker from a signal handler, in any line of code
            line = _line_of(late)
        if line is None:
            raise
        sys.exit(f'error: {line}')


def _line_of(error: BaseException) -> str | None:
    """What an error says, if that is enough for a user."""
    cause: BaseException | None = error
    while cause is not None:
        if str(cause).startswith('DataLoader worker'):
            return (
                f'{str(cause).splitlines()[0]} A process that loads images has died, probably by the out-of-memory '
                'killer (check dmesg): set fewer train_dataloader.num_workers. --resume resumes from the newest '
                'checkpoint'
            )
        cause = cause.__context__
    if not isinstance(error, (AnnotationError, ValueError, OSError, FloatingPointError)):
        return None
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    own = (PACKAGE, PACKAGE.parent / 'tools')
    if not any(map(raised_in.is_relative_to, own)) and getattr(error, 'filename', None) is None:
        return None
    return str(error)


def end_launch() -> None:
    """Ends the loader workers and leaves the process group after a successful run.

    After an error this could wait for the other ranks. Without it, gloo threads may hold tensors until Python has
    ended, which can abort a process that has finished (https://github.com/pytorch/pytorch/issues/190489).
    """
    for loader in gc.get_objects():
        # Python would first close the queue by which torch asks the workers to end, and torch then waits 5 s for each.
        if type(loader) is DataLoader and loader._iterator is not None:
            loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
    gc.collect()  # the model wrapper holds the group too
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def prepare_launch(cfg: Config) -> None:
    """Makes several processes possible without CUDA, over gloo. Call it before the Runner is built.

    Raises:
        ValueError: ``slurm`` outside of a Slurm job.
    """
    if cfg.launcher == 'pytorch' and sys.platform == 'linux':
        # A launcher that is killed cannot stop its ranks, so the kernel does.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if cfg.launcher == 'slurm' and 'SLURM_PROCID' not in os.environ:
        raise ValueError(
            '--launcher slurm: SLURM_PROCID is not set, so srun did not start this process; use tools/slurm_train.sh, '
            'or tools/dist_train.sh outside of Slurm'
        )
    if torch.cuda.is_available() or cfg.launcher == 'none':
        return
    torch.cuda.set_device = lambda device: None  # mmengine calls it with any backend, and it fails without CUDA
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    # Without device_ids, DDP leaves the model on the CPU.
    wrapper = {**wrapper, **(cfg.get('model_wrapper_cfg') or {}), 'device_ids': None}
    cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo', 'model_wrapper_cfg': wrapper})
