"""Prints the stages, samplers, epochs, iterations and learning rates of a config, without training.

    python tools/analysis_tools/plan_training.py CONFIG --gpus 8
    python tools/analysis_tools/plan_training.py CONFIG --gpus 16 --images 1674979           # without the data

The learning rates come from mmengine's own schedulers, stepped through the whole training.
"""

from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope

from mmoid.engine.launch import add_cfg_options, enable_auto_scale_lr, load_config
from mmoid.engine.schedule.training_plan import TrainingPlan, lr_spans, plan_training
from mmoid.engine.settings import type_name
from mmoid.utils.command_line import exit_on_error, positive_int, tool_parser
from mmoid.utils.progress import print_table


def print_plan(plan: TrainingPlan, default_sampler: dict) -> None:
    rows = []
    for stage in plan.stages:
        sampler = dict(stage.sampler or default_sampler)
        sampler.pop('_scope_', None)  # mmengine's, in configs that inherit from 'mmoid::...'
        name = type_name(sampler.pop('type')) + ''.join(f', {key} {value}' for key, value in sampler.items())
        print(f'{stage.name}: {stage.epochs} epochs of {name}')
        for i, (start, stop, first, last) in enumerate(lr_spans(plan, stage)):
            epochs = f'{start / plan.epoch_length:.4g} - {stop / plan.epoch_length:.4g}'
            lr = f'{first:g}' if first == last else f'{first:g} to {last:g}'
            rows.append(('' if i else stage.name, epochs, f'{start:,} - {stop:,}', lr))
    print_table(rows, 'stage', 'epochs', 'iterations', 'learning rate')
    print(f'{plan.epoch_length:,} iterations of {plan.batch_size} images an epoch, {len(plan.lr):,} in all.')


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('config', help='train config file path')
    gpus = 'number of processes over all machines (default: 1)'
    parser.add_argument('--gpus', type=positive_int, default=1, help=gpus)
    parser.add_argument('--images', type=positive_int, help='size of the training set (default: open it and count)')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate by the total batch size')
    add_cfg_options(parser)
    args = parser.parse_args()
    with exit_on_error():
        cfg = load_config(args.config, args.cfg_options)
        init_default_scope(cfg.get('default_scope') or 'mmdet')  # new-style configs have None
        if args.auto_scale_lr:
            enable_auto_scale_lr(cfg)
        images = args.images or len(DATASETS.build(cfg.train_dataloader.dataset))
        print_plan(plan_training(cfg, images, args.gpus), cfg.train_dataloader.sampler)
    print(f'Next: mmoid train {args.config}')
