"""Trains a detector. Options are those of mmdet's tools/train.py."""

from __future__ import annotations

import argparse
import os

from mmoid.stack import require_stack

require_stack()  # before mmengine is: a stack that is missing or does not fit is told in one message

from mmengine.config import Config, DictAction  # noqa: E402

from mmoid.engine import PretrainedError, build_runner, end_launch, fetch_pretrained, load_config  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a detector')
    parser.add_argument('config', help='train config file path')
    parser.add_argument('--work-dir', help='the dir to save logs and models')
    parser.add_argument('--amp', action='store_true', help='enable automatic mixed precision training')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate by the total batch size')
    parser.add_argument('--resume', nargs='?', const='auto', help=(
        'a checkpoint to resume from; without a path, the latest one in the work dir'))  # fmt: skip
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help=(
        'override settings of the config, as key=value pairs: model.roi_head.bbox_head.loss_cls.type=SoftmaxLoss '
        'or train_dataloader.batch_size=4'))  # fmt: skip
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # torch.distributed.launch passes it, torchrun does not.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def enable_amp(cfg: Config) -> None:
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise SystemExit(f'error: --amp needs optim_wrapper.type OptimWrapper, the config has {kind}')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def enable_auto_scale_lr(cfg: Config) -> None:
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise SystemExit('error: --auto-scale-lr needs auto_scale_lr = dict(base_batch_size=…) in the config')
    cfg.auto_scale_lr.enable = True


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        enable_auto_scale_lr(cfg)
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    try:
        fetch_pretrained(cfg)
    except PretrainedError as error:
        raise SystemExit(f'error: {error}') from None
    build_runner(cfg).train()
    end_launch()


if __name__ == '__main__':
    main()
