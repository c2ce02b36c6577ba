"""What the configs say: names, headers, schedules, classes, and the table in the docs."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmoid.engine.schedule.hybrid_schedule import stages_of_config
from mmoid.engine.schedule.training_plan import plan_training

ROOT = Path(__file__).parents[2]
RECIPES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob('configs/[!_]*/*.py'))
# Those with the paper's protocol; the small ones are for a laptop, those of label sets have other detectors.
PAPER_RECIPES = [path for path in RECIPES if '-small_' not in path and 'label_sets/' not in path]
# Sec. 5.2 for 7 epochs; the longer trainings lower the learning rate at the same fractions of their length.
STEPS = {7: (4, 6), 11: (6, 9), 14: (8, 12), 16: (9, 14), 20: (11, 17)}
LR_OF_AN_IMAGE = 0.00125
WARM_UP = 1000  # iterations
MINI_IMAGES = 115_000
IMAGES = 64_000  # of the whole set: enough to see every epoch
# Read by other code than the arguments of Runner; the last four are names of mmdet's own configs.
READ = {*inspect.signature(Runner.__init__).parameters, 'sync_bn', 'custom_imports', 'tta_model', 'tta_pipeline'}
READ |= {'data_root', 'backend_args', 'train_pipeline', 'test_pipeline', 'vis_backends'}


def read(path):
    return Config.fromfile(ROOT / path, import_custom_modules=False)


def stem(path):
    return Path(path).stem


def batch_of(path):
    """GPUs and images per GPU that the name tells."""
    gpus, images = re.search(r'_(\d+)xb(\d+)-', path).groups()
    return int(gpus), int(images)


def epochs_of(path):
    """Epochs of each stage that the name tells: 1x, 14e, hybrid-20e-7e."""
    epochs = [int(number) for number in re.findall(r'-(\d+)e(?=[-_])', path)]
    return epochs or [7]


def header(path):
    """Its lines, continued ones joined, and the lines' values by their first word."""
    lines = []
    for line in (ROOT / path).read_text().splitlines():
        if not line.startswith('#'):
            break
        lines = [*lines[:-1], f'{lines[-1]} {line[1:].strip()}'] if line.startswith('#   ') else [*lines, line[2:]]
    return lines, dict(line.split(': ', 1) for line in lines if ': ' in line)


@pytest.mark.parametrize('path', PAPER_RECIPES, ids=stem)
def test_a_config_does_what_the_paper_and_its_name_say(path):
    cfg = read(path)
    gpus, images = batch_of(path)
    lr = LR_OF_AN_IMAGE * gpus * images
    assert cfg.train_dataloader.batch_size == images
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=gpus * images)
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=lr, momentum=0.9, weight_decay=1e-4)

    plan = plan_training(cfg, MINI_IMAGES if 'mini' in path else IMAGES, gpus)
    expected = [
        lr * 0.1 ** sum(epoch >= step for step in STEPS[epochs])
        for epochs in epochs_of(path)
        for epoch in range(epochs)
    ]
    expected = np.repeat(expected, plan.epoch_length)
    expected[:WARM_UP] *= np.linspace(0.001, 1, WARM_UP)
    assert np.allclose(plan.lr, expected, rtol=1e-9)
    assert [stage.epochs for stage in plan.stages] == epochs_of(path)

    stages = stages_of_config(cfg)
    samplers = [stage.sampler or cfg.train_dataloader.sampler for stage in stages] or [cfg.train_dataloader.sampler]
    named = re.search(r'-balance([\d.]+)-', path)
    balance = float(named[1]) if named else 1.0 if '-cas-' in path else 0.7 if stages else None
    natural = dict(type='DefaultSampler', shuffle=True)
    last = natural if balance is None else dict(type='SoftBalanceClassAwareSampler', balance=balance)
    assert samplers == [*[natural] * (len(samplers) - 1), last]

    backbone = cfg.model.backbone
    assert (backbone.get('init_cfg') is None) == ('-scratch_' in path)
    if '-scratch_' in path:
        assert backbone.frozen_stages == -1
    assert not backbone.get('norm_eval', False)


@pytest.mark.parametrize('path', RECIPES, ids=stem)
def test_a_header_gives_row_protocol_figure_cost_and_command_and_no_key_is_unused(path):
    lines, values = header(path)
    assert lines[0].endswith('.')
    assert {'Protocol', 'mAP', 'Cost', 'Run'} <= set(values)
    assert re.fullmatch(r'paper: .+; here: .+', values['mAP'])
    gpus, images = batch_of(path)
    processes = min(gpus, 8)  # of one machine
    assert values['Run'].endswith(f'bash tools/dist_train.sh {path} {processes}')
    assert ('NNODES=2 ' in values['Run']) == (gpus == 16)
    assert re.match(rf'{gpus} (GPUs|processes) x {images} images', values['Cost'])
    if path in PAPER_RECIPES:
        assert f', {sum(epochs_of(path))} epochs of ' in values['Cost']
    cfg = read(path)
    assert set(cfg) <= READ
    scale = next(step.scale for step in cfg.test_pipeline if step.type == 'Resize')
    assert scale in [step.scale for step in cfg.tta_pipeline[1].transforms[0]]


def test_the_tables_in_the_docs_say_what_the_headers_say():
    rows = set()
    for path in RECIPES:
        lines, values = header(path)
        paper, here = re.fullmatch(r'paper: (.+); here: (.+)', values['mAP']).groups()
        rows.add(f'| [{stem(path)}](../{path}) | {lines[0]} | {paper} | {here.rstrip(".")} |')
    listed = re.findall(r'^\| \[.*$', (ROOT / 'docs/configs.md').read_text(), flags=re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == rows, '\n'.join(sorted(rows))
