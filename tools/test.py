"""Tests a checkpoint: mAP, predictions, images. It has the options of mmdet's tools/test.py and more.

    python tools/test.py CONFIG work_dirs/mine/epoch_12.pth --out work_dirs/mine/predictions

tools/dist_test.sh and tools/slurm_test.sh start several processes.
"""

import argparse

from mmengine.config import Config
from mmengine.dist import is_main_process
from torch.distributed.elastic.multiprocessing.errors import record

from mmoid.engine.launch import build_runner, end_launch, load_config, one_line_error, parse_run_args
from mmoid.engine.settings import enable_out, enable_tta
from mmoid.utils.command_line import tool_parser


@record  # torchrun repeats the exception of a rank that fails
def test(args: argparse.Namespace) -> None:
    with one_line_error():
        cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
        cfg.load_from = args.checkpoint
        if args.show or args.show_dir:
            hook = cfg.default_hooks.get('visualization')
            if hook is None:
                needed = "default_hooks.visualization=dict(type='DetVisualizationHook')"
                raise ValueError(f'--show and --show-dir need {needed}')
            hook.draw = True
            if args.show:
                hook.show, hook.wait_time = True, args.wait_time
            if args.show_dir:
                hook.test_out_dir = args.show_dir
        if args.tta:
            enable_tta(cfg)
        if args.out is not None:
            enable_out(cfg, args.out, args.restart)
        if args.tta or args.out is not None:
            # Without a file name, mmengine dumps the config as <timestamp>.py and does not replace that of the
            # training, which may be in the same work dir.
            cfg = Config(cfg.to_dict())
        build_runner(cfg).test()
        if args.out is not None and is_main_process():
            print(f'{args.out}: written. Next: mmoid show --store STORE --predictions {args.out}')
    end_launch()


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('config', help='test config file path')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='the directory to save the evaluation metrics')
    parser.add_argument('--out', help='folder for the predictions (PredictionStore); a killed run resumes from it')
    parser.add_argument('--restart', action='store_true', help='delete the results of a killed run with --out')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='directory for images with detections, below work_dir/timestamp')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds between shown images')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation, by tta_model and tta_pipeline')
    test(parse_run_args(parser))
