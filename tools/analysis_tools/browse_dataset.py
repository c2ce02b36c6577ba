"""Draws what a config feeds to its model: images after the pipeline, in the order of a stage's sampler.

    python tools/analysis_tools/browse_dataset.py CONFIG --stage 2 --number 24 --out work_dirs/browse

Each object has one box, with the labels that the head learns: annotated labels, then ancestors, if its label sets have
them. Group-of boxes are dashed, ignored boxes grey. A sheet has nine images. Images that cannot be read are
drawn grey and listed at the end; the exit status is then 1.
"""

from itertools import islice
from pathlib import Path

import mmoid.registry  # noqa: F401
from mmoid.engine.launch import add_cfg_options, load_config
from mmoid.engine.schedule.stage_samples import stage_items
from mmoid.utils.command_line import exit_on_error, positive_int, tool_parser
from mmoid.utils.progress import progress_bars
from mmoid.visualization.figures import save
from mmoid.visualization.label_sets import draw_training_items

PER_SHEET = 9


if __name__ == '__main__':
    parser = tool_parser(__doc__)
    parser.add_argument('config', help='train config file path')
    parser.add_argument('--stage', help='name of a stage, or its number from 1 (default: the first)')
    parser.add_argument('--epoch', type=int, help='epoch of the run, from 0 (default: the first of the stage)')
    parser.add_argument('--number', type=positive_int, default=18, help='number of images (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/browse'), help='folder (default: %(default)s)')
    add_cfg_options(parser)
    args = parser.parse_args()
    with exit_on_error():
        fed = stage_items(load_config(args.config, args.cfg_options), args.stage, args.epoch)
        name = f'{fed.stage.name}, ' if fed.stage else ''
        title = f'{name}{fed.sampler}, epoch {fed.epoch}'
        stage = (fed.stage.name if fed.stage else 'train').replace(' ', '-').replace('/', '-')
        with progress_bars() as progress:
            for sheet, done in enumerate(range(0, args.number, PER_SHEET)):
                items = list(islice(fed.items, min(PER_SHEET, args.number - done)))
                if not items:
                    if not sheet:
                        raise ValueError(f'{args.config}: its training data has no image')
                    break
                figure = draw_training_items(items, fed.class_names, title, fed.same_object_iou)
                print(save(figure, args.out / f'{stage}-epoch{fed.epoch}-{sheet:03d}.png', dpi=150))
                progress('drawing', done + len(items), args.number)
        if fed.unreadable:
            listed = ''.join(f'\n{path} ({reason})' for path, reason in fed.unreadable.items())
            raise ValueError(f'{len(fed.unreadable)} images cannot be read:{listed}')
        print(f'Next: mmoid train {args.config}')
