"""Stages beside what else a run has: TensorBoard, early stopping, scaled rates, validation, other schedulers."""

import math
from pathlib import Path

import pytest

from mmoid.engine.schedule.stages import parse_stages, plan, require_same_plan
from tests.checkpoints import read_checkpoint
from tests.engine.resume import resume_run
from tests.engine.resume.resume_checks import assert_equal, history, iterations, state, train, train_in_pieces

BALANCED = dict(type='SoftBalanceClassAwareSampler')
WARM_UP = dict(type='LinearLR', start_factor=0.25, by_epoch=False, begin=0, end=3)
STEP = dict(type='MultiStepLR', milestones=[1], gamma=0.1)
NEVER_BETTER = dict(type='EarlyStoppingHook', monitor='mean/score', rule='less', min_delta=9)


@pytest.fixture(scope='module', autouse=True)
def quick():
    with resume_run.plain_config_text():
        yield


def rates(work_dir):
    """Learning rates of the run, by epoch."""
    epochs = {}
    for line in history(work_dir).values():
        epochs.setdefault(line['epoch'], []).append(line['lr'])
    return epochs


def log(run):
    return Path(run.log_dir, f'{run.timestamp}.log').read_text()


def test_stages_are_seen_in_tensorboard(tiny_data, tmp_path):
    event_accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    options = dict(
        stages=[
            dict(epochs=1),
            dict(epochs=1, sampler=BALANCED),
            dict(epochs=1, sampler=BALANCED, param_scheduler=STEP),
        ],
        vis_backends=[dict(type='TensorboardVisBackend')],
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='TensorboardVisBackend')]),
    )
    run = train(tiny_data, tmp_path, **options)
    run.visualizer.close()
    events = event_accumulator.EventAccumulator(str(Path(run.log_dir, 'vis_data')))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars('stage')] == [
        (2, 1),
        (4, 1),
        (6, 1),
        (8, 2),
        (10, 2),
        (12, 2),
        (14, 3),
        (16, 3),
        (18, 3),
    ]
    assert {'lr', 'loss', 'mean/score'} <= set(events.Tags()['scalars'])


@pytest.mark.slow
def test_five_stages_each_with_a_schedule_of_its_own(tiny_data, tmp_path):
    stages = [
        dict(epochs=1, param_scheduler=WARM_UP),
        dict(epochs=2, param_scheduler=[WARM_UP, STEP]),
        dict(epochs=1),
        dict(epochs=1, param_scheduler=[dict(type='CosineAnnealingLR', eta_min=0, by_epoch=False)]),
        dict(epochs=2, param_scheduler=dict(type='ExponentialLR', gamma=0.5)),
    ]
    options = dict(stages=stages, auto_scale_lr=dict(enable=True, base_batch_size=2))  # batches of 8: rates times 4
    train(tiny_data, tmp_path / 'whole', **options)
    lr = 4 * 0.05
    warm_up = [0.25 * lr, 0.625 * lr, lr, lr, lr, lr]
    seen = rates(tmp_path / 'whole')
    assert seen[0] == pytest.approx(warm_up)
    assert seen[1] == pytest.approx(warm_up)
    assert seen[2] == pytest.approx([lr / 10] * 6)
    assert seen[3] == pytest.approx([lr] * 6)
    assert seen[4] == pytest.approx([lr * (1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)])
    assert seen[5] == pytest.approx([lr] * 6)
    assert seen[6] == pytest.approx([lr / 2] * 6)
    train_in_pieces(tiny_data, tmp_path / 'pieces', iterations([6, 9, 30]), **options)
    assert history(tmp_path / 'pieces') == history(tmp_path / 'whole')
    assert_equal(*[state(tmp_path / name / 'epoch_7.pth') for name in ('pieces', 'whole')])


def test_a_scheduled_momentum_is_set_back_too(tiny_data, tmp_path):
    stages = [dict(epochs=2, param_scheduler=dict(type='MultiStepMomentum', milestones=[1], gamma=0.5)), dict(epochs=1)]
    train(tiny_data, tmp_path, stages=stages)
    assert [line['momentum'] for line in history(tmp_path).values()] == [0.9] * 6 + [0.45] * 6 + [0.9] * 6


def test_a_rate_that_follows_the_metric_does_so_inside_its_stage(tiny_data, tmp_path):
    plateau = dict(type='ReduceOnPlateauLR', monitor='mean/score', rule='less', factor=0.5, patience=0, threshold=9)
    stages = [dict(epochs=1), dict(epochs=3, param_scheduler=plateau), dict(epochs=1, param_scheduler=plateau)]
    train(tiny_data, tmp_path / 'whole', stages=stages)
    # No score is good enough: the rate is halved after each epoch of the second stage that another one follows.
    assert [epoch[0] for epoch in rates(tmp_path / 'whole').values()] == [0.05, 0.05, 0.025, 0.0125, 0.05]
    train_in_pieces(tiny_data, tmp_path / 'pieces', iterations([12, 24]), stages=stages)
    assert history(tmp_path / 'pieces') == history(tmp_path / 'whole')


def test_early_stopping_ends_the_run_and_says_in_which_stage(tiny_data, tmp_path):
    stages = [dict(name='natural', epochs=3), dict(epochs=3, sampler=BALANCED)]
    run = train(tiny_data, tmp_path, stages=stages, **{'default_hooks.stop': dict(NEVER_BETTER, patience=1)})
    assert len(history(tmp_path)) == 12
    assert 'The run ended in stage 1 of 2, "natural": EarlyStoppingHook ends the run, not the stage' in log(run)


def test_validation_keeps_its_own_interval(tiny_data, tmp_path):
    stages = [dict(epochs=3), dict(epochs=2, sampler=BALANCED)]
    train(tiny_data, tmp_path, stages=stages, **{'train_cfg.val_interval': 2})
    text = (tmp_path / 'rank0.jsonl').read_text()
    assert [epoch for epoch in range(1, 6) if f'"validation": {epoch}}}' in text] == [2, 4, 5]


@pytest.mark.parametrize(
    ('second', 'message'),
    [
        (dict(epochs=3), r'cannot resume: HybridSchedule\.stages\[1\]\.epochs is 3, but was 2 when the checkpoint'),
        (dict(epochs=2, param_scheduler=dict(STEP, gamma=0.5)), r'stages\[1\]\.param_scheduler is .*0\.5.* was .*0\.1'),
        (None, r'cannot resume: HybridSchedule has 1 stages, but had 2 when .* start a new run from its weights'),
    ],
)
def test_a_resumed_run_has_the_schedule_that_it_had(tiny_data, tmp_path, second, message):
    stages = [dict(epochs=1), dict(epochs=2, param_scheduler=STEP)]
    train(tiny_data, tmp_path, stages=stages, end=dict(at='iteration', number=3))
    assert read_checkpoint(tmp_path / 'iter_2.pth')['meta']['stages'][1]['epochs'] == 2
    with pytest.raises(ValueError, match=message):
        train(tiny_data, tmp_path, resume=True, stages=[stages[0], second] if second else stages[:1])


def test_a_plan_is_the_same_whatever_the_order_of_keys():
    # mmengine sorts them in a config that it dumps.
    dumped = dict(sorted(WARM_UP.items()))
    assert list(dumped) != list(WARM_UP)
    saved = plan(parse_stages([dict(epochs=1, param_scheduler=WARM_UP)]))
    require_same_plan(saved, parse_stages([dict(epochs=1, param_scheduler=dumped)]))


@pytest.mark.parametrize(('norm', 'persistent'), [('BN', False), ('GN', True)])
def test_whoever_loads_and_whatever_normalises_the_run_is_resumed(tiny_data, tmp_path, norm, persistent):
    options = {'model.norm': norm, 'stages': [dict(epochs=1), dict(epochs=1, sampler=BALANCED)]}
    train(tiny_data, tmp_path / 'whole', **options)
    ends = iterations([3, 6, 9])
    train_in_pieces(tiny_data, tmp_path / 'pieces', ends, num_workers=2, persistent=persistent, **options)
    assert history(tmp_path / 'pieces') == history(tmp_path / 'whole')
    assert_equal(*[state(tmp_path / name / 'epoch_2.pth') for name in ('pieces', 'whole')])
