"""What the configs say of themselves: names, headers, schedules, and the table in the docs."""

import re

import numpy as np
import pytest

from mmoid.engine.schedule.training_plan import plan_training
from tests.configs.recipes import PAPER_RECIPES, RECIPES, ROOT, batch_of, read, stages_of, stem

# Sec. 5 for 7 epochs; the longer ones lower the rate at the same parts of their length.
STEPS = {7: (4, 6), 11: (6, 9), 14: (8, 12), 16: (9, 14), 20: (11, 17)}
RATE_OF_AN_IMAGE = 0.00125
WARM_UP = 1000  # iterations
MINI_IMAGES = 115_000
IMAGES = 64_000  # of the whole set: enough to see every epoch


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
def test_rates_and_stages_are_those_of_the_paper_over_the_whole_training(path):
    cfg = read(path)
    gpus, images_of_gpu = batch_of(path)
    plan = plan_training(cfg, MINI_IMAGES if 'mini' in path else IMAGES, gpus)
    expected = [
        RATE_OF_AN_IMAGE * gpus * images_of_gpu * 0.1 ** sum(epoch >= step for step in STEPS[epochs])
        for epochs in epochs_of(path)
        for epoch in range(epochs)
    ]
    expected = np.repeat(expected, plan.epoch_length)
    expected[:WARM_UP] *= np.linspace(0.001, 1, WARM_UP)
    assert np.allclose(plan.rates, expected, rtol=1e-9)
    assert [stage.epochs for stage in plan.stages] == epochs_of(path)


@pytest.mark.slow
def test_rates_over_all_iterations_of_the_challenge():
    (path,) = [path for path in RECIPES if path.startswith('configs/hybrid/') and 'scratch_concurrent' in path]
    plan = plan_training(read(path), 1_674_979, 16)
    assert len(plan.rates) == 27 * 52_344
    restart = 20 * plan.epoch_length
    assert plan.rates[restart - 1] == pytest.approx(0.0004) and plan.rates[restart] == pytest.approx(0.04)
    assert plan.rates[-1] == pytest.approx(0.0004)


@pytest.mark.parametrize('path', PAPER_RECIPES, ids=stem)
def test_names_tell_batch_and_sampling(path):
    cfg = read(path)
    gpus, images = batch_of(path)
    assert cfg.train_dataloader.batch_size == images
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=gpus * images)
    assert cfg.optim_wrapper.optimizer == dict(
        type='SGD', lr=RATE_OF_AN_IMAGE * gpus * images, momentum=0.9, weight_decay=1e-4
    )
    stages = stages_of(cfg)
    samplers = [stage.get('sampler', cfg.train_dataloader.sampler) for stage in stages or [{}]]
    named = re.search(r'-balance([\d.]+)-', path)
    balance = float(named[1]) if named else 1.0 if '-cas-' in path else 0.7 if stages else None
    natural = dict(type='DefaultSampler', shuffle=True)
    last = natural if balance is None else dict(type='SoftBalanceClassAwareSampler', balance=balance)
    assert samplers == [*[natural] * (len(samplers) - 1), last]


@pytest.mark.parametrize('path', PAPER_RECIPES, ids=stem)
def test_from_scratch_nothing_is_loaded_or_frozen(path):
    backbone = read(path).model.backbone
    assert (backbone.get('init_cfg') is None) == ('-scratch_' in path)
    if '-scratch_' in path:
        assert backbone.frozen_stages == -1
    assert not backbone.get('norm_eval', False)


@pytest.mark.parametrize('path', RECIPES, ids=stem)
def test_headers_tell_row_protocol_figure_cost_and_command(path):
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


def test_the_table_in_the_docs_lists_all_configs_as_their_headers_do():
    rows = set()
    for path in RECIPES:
        lines, values = header(path)
        paper, here = re.fullmatch(r'paper: (.+); here: (.+)', values['mAP']).groups()
        figure = paper.removesuffix(' (docs/configs.md says why)')
        rows.add(f'| [{stem(path)}](../{path}) | {lines[0]} | {figure} | {here.rstrip(".")} |')
    listed = re.findall(r'^\| \[.*$', (ROOT / 'docs/configs.md').read_text(), flags=re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == rows, '\n'.join(sorted(rows))
