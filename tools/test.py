"""Tests a checkpoint: mAP, predictions, images. Options are those of mmdet's tools/test.py."""

from __future__ import annotations

import argparse
import os

from mmengine.config import Config, ConfigDict, DictAction
from torch.distributed.elastic.multiprocessing.errors import record

from mmoid.engine import build_runner, end_launch, load_config
from mmoid.engine.launch import one_line_error


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test (and eval) a model')
    parser.add_argument('config', help='test config file path')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='the directory to save the evaluation metrics')
    parser.add_argument('--out', help='folder for the predictions (PredictionStore); a killed run resumes from it')
    parser.add_argument('--restart', action='store_true', help='delete the results of a killed run with --out')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='directory for images with detections, below work_dir/timestamp')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds between shown images')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override settings, as key=value pairs')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation, by tta_model and tta_pipeline')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def enable_drawing(cfg: Config, args: argparse.Namespace) -> None:
    if 'visualization' not in cfg.default_hooks:
        raise SystemExit(
            "error: --show and --show-dir need default_hooks.visualization=dict(type='DetVisualizationHook')"
        )
    hook = cfg.default_hooks.visualization
    hook.draw = True
    if args.show:
        hook.show, hook.wait_time = True, args.wait_time
    if args.show_dir:
        hook.test_out_dir = args.show_dir


def enable_tta(cfg: Config) -> None:
    """Wraps the model in ``tta_model``. The defaults are those of mmdet: flips, merged by NMS."""
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'tta_model' not in cfg:
        rcnn = cfg.model.get('test_cfg', {}).get('rcnn') or cfg.model.get('test_cfg', {})
        nms = dict(type='nms', iou_threshold=0.5)
        cfg.tta_model = dict(
            type='mmoid.LabelSetTTAModel', tta_cfg=dict(nms=nms, max_per_img=rcnn.get('max_per_img', 300))
        )
    if 'tta_pipeline' not in cfg:
        # Without ground truth, which would be that of a flipped view.
        *load, pack = (step for step in dataset.pipeline if step.type != 'LoadAnnotations')
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        packs = [dict(type=pack.type, meta_keys=keys)]
        cfg.tta_pipeline = [*load, dict(type='TestTimeAug', transforms=[flips, packs])]
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def enable_out(cfg: Config, args: argparse.Namespace) -> None:
    if args.out.endswith(('.pkl', '.pickle')):
        raise SystemExit(f'error: --out {args.out}: give a folder for Arrow files; pickle files are not supported')
    loop = cfg.get('test_cfg') or {}
    if loop.get('type', 'TestLoop') not in ('TestLoop', 'ResumableTestLoop', 'mmoid.ResumableTestLoop'):
        raise SystemExit(f'error: --out needs test_cfg.type TestLoop, the config has {loop["type"]}')
    cfg.test_cfg = {**loop, 'type': 'mmoid.ResumableTestLoop'}
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    dump = dict(type='mmoid.PredictionDump', out=args.out, restart=args.restart)
    for evaluator in evaluators:
        if evaluator.get('expand_detections'):  # what is evaluated is what is written
            dump |= dict(ancestors_of=evaluator.ann_file, ancestor_nms=evaluator.get('ancestor_nms', 0.5))
    cfg.test_evaluator = [*evaluators, dump]


@record  # torchrun repeats the exception of a rank that fails
def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
    cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        enable_drawing(cfg, args)
    if args.tta:
        enable_tta(cfg)
    if args.out is not None:
        enable_out(cfg, args)
    if args.tta or args.out is not None:
        # Without a file name, mmengine dumps the config as <timestamp>.py and does not replace that of the training,
        # which may be in the same work dir.
        cfg = Config(cfg.to_dict())
    with one_line_error():
        build_runner(cfg).test()
    end_launch()


if __name__ == '__main__':
    main()
