"""Trains a detector. It has the options of mmdet's tools/train.py.

    python tools/train.py CONFIG --work-dir work_dirs/mine

tools/dist_train.sh and tools/slurm_train.sh start several processes.

Exit status: 0; 75 after SIGTERM, if the run can be resumed with --resume; 1 after an error.
"""

import argparse
import sys
from pathlib import Path

from mmengine.dist import is_main_process
from torch.distributed.elastic.multiprocessing.errors import record

from mmoid.engine import launch
from mmoid.engine.hooks import RESUMABLE, SigtermHook, Terminated
from mmoid.engine.resume.checkpoint_hook import ResumableCheckpointHook
from mmoid.engine.resume.train_loop import ResumableEpochTrainLoop
from mmoid.engine.settings import type_name
from mmoid.utils.command_line import tool_parser


@record  # torchrun repeats the exception of a rank that fails
def train(args: argparse.Namespace) -> None:
    with launch.one_line_error():
        cfg = launch.load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
        if args.amp:
            launch.enable_amp(cfg)
        if args.auto_scale_lr:
            launch.enable_auto_scale_lr(cfg)
        runner = launch.build_runner(cfg)
        if args.resume is not None:  # not in cfg: without a checkpoint, the run starts from its load_from
            runner._resume, runner._load_from = True, None if args.resume == 'auto' else args.resume
        checkpoints = [hook for hook in runner.hooks if isinstance(hook, ResumableCheckpointHook)]
        if checkpoints and type_name(cfg.train_cfg.get('type', '')) == ResumableEpochTrainLoop.__name__:
            runner.register_hook(SigtermHook(checkpoints[0]))
        status, last = 0, Path(runner.work_dir, 'last_checkpoint')
        try:
            runner.train()
        except Terminated:
            status = RESUMABLE
        if not status and is_main_process() and last.exists():
            checkpoint = last.read_text()
            print(f'{checkpoint}: written. Next: mmoid test {args.config} {checkpoint}')
    launch.end_launch()
    sys.exit(status)


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('config', help='train config file path')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument('--amp', action='store_true', help='enable automatic mixed precision training')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate by the total batch size')
    resume_help = 'checkpoint to resume from; without a path, the newest intact one in the work dir'
    parser.add_argument('--resume', nargs='?', const='auto', help=resume_help)
    train(launch.parse_run_args(parser))
