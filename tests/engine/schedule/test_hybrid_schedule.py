"""HybridSchedule on real runs, also beside TensorBoard, early stopping, scaled learning rates and validation."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.optim import MultiStepLR

import mmoid
from mmoid.engine.schedule.hybrid_schedule import parse_stages, plan, schedule, stage_index, stages_of_config
from mmoid.engine.schedule.training_plan import learning_rates
from tests.engine.run_checks import history, log, train
from tests.engine.small_run import BALANCED, STAGES, STEP, WARM_UP


def lr_by_epoch(work_dir):
    epochs = {}
    for line in history(work_dir).values():
        epochs.setdefault(line['epoch'], []).append(line['lr'])
    return epochs


def test_two_ranks_hand_out_what_the_stage_says(tiny_data, whole_of_two):
    data = mmoid.OpenImagesHierarchyDataset(f'{tiny_data}/train', filter_cfg=dict(filter_empty_gt=True))
    names = [data.get_data_info(i)['img_id'] for i in range(len(data))]
    seen = [Counter() for _ in range(4)]
    for rank in (0, 1):
        for line in history(whole_of_two, rank).values():
            seen[line['epoch']].update(line['images'])
    assert all(images.total() - len(data) < 2 for images in seen), "a rank's last place is filled up"
    assert set(seen[0]) == set(seen[1]) == set(names)
    sampler = mmoid.SoftBalanceClassAwareSampler(data, balance=0.7, seed=0)
    sampler.begin_at(2)
    for epoch in (2, 3):
        sampler.set_epoch(epoch)
        assert Counter(names[index] for index in sampler) <= seen[epoch]


def test_mmengines_loop_resumes_in_the_right_stage_at_the_start_of_the_epoch(whole, tiny_data, tmp_path):
    options = {'train_cfg.type': 'EpochBasedTrainLoop', 'default_hooks.checkpoint.iter_interval': None}
    train(tiny_data, tmp_path, end=dict(at='iteration', number=20), **options)
    (tmp_path / 'rank0.jsonl').unlink()
    train(tiny_data, tmp_path, resume=True, **options)
    resumed = history(tmp_path)
    assert list(resumed) == list(range(18, 24))
    for number, line in resumed.items():
        for key in ('stage', 'lr', 'images'):
            assert line[key] == history(whole)[number][key]


def test_the_learning_rate_starts_again_with_its_own_warm_up(whole):
    lr, lines = lr_by_epoch(whole), history(whole).values()
    assert lr[0] == pytest.approx([0.05 * (0.25 + 0.75 * i / 7) for i in range(6)])
    assert lr[1] == pytest.approx([0.005 * (0.25 + 0.75 * 6 / 7), *[0.005] * 5])
    assert lr[2] == pytest.approx([0.0125, 0.03125, *[0.05] * 4])
    assert lr[3] == pytest.approx([0.005] * 6)
    assert [line['stage'] for line in lines] == [1] * 12 + [2] * 12


def test_the_stage_is_in_the_log_and_in_tensorboard(tiny_data, tmp_path):
    event_accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    options = dict(visualizer=dict(type='Visualizer', vis_backends=backends), log_level='INFO')
    run = train(tiny_data, tmp_path, stages=[dict(epochs=1), STAGES[1]], **options)
    run.visualizer.close()
    text = 'Stage 2 of 2 "soft balance": epoch 1 of 2, SoftBalanceClassAwareSampler with λ = 0.7, learning rate 0.0125'
    assert text in log(run)
    events = event_accumulator.EventAccumulator(str(Path(run.log_dir, 'vis_data')))
    events.Reload()
    stages = [(2, 1), (4, 1), (6, 1), (8, 2), (10, 2), (12, 2), (14, 2), (16, 2), (18, 2)]
    assert [(event.step, event.value) for event in events.Scalars('stage')] == stages


@pytest.mark.parametrize(
    ('stages', 'message'),
    [
        ([], 'stages is empty'),
        ([dict(epochs=0)], r'stages\[0\]\.epochs must be an integer of at least 1, got 0'),
        ([dict(epochs=1), dict(epochs=1, lr=3)], r"stages\[1\] has the unknown key 'lr'; known are name, epochs"),
    ],
)
def test_wrong_stages_are_refused(stages, message):
    with pytest.raises(ValueError, match=message):
        parse_stages(stages)


@pytest.mark.parametrize('kind', ['HybridSchedule', 'mmoid.HybridSchedule', mmoid.HybridSchedule])
def test_stages_are_found_by_each_form_of_their_type(kind):
    hooks = [dict(type='EMAHook'), dict(type=kind, stages=[dict(epochs=3)])]
    assert [stage.epochs for stage in stages_of_config(Config(dict(custom_hooks=hooks)))] == [3]


def test_a_stage_is_found_from_the_epoch_alone():
    stages = parse_stages([dict(epochs=2), dict(epochs=1), dict(epochs=4)])
    assert [stage_index(stages, epoch) for epoch in range(9)] == [0, 0, 1, 2, 2, 2, 2, 2, 2]


def test_each_stage_has_a_schedule_of_its_own():
    stages = [
        dict(epochs=1, param_scheduler=WARM_UP),
        dict(epochs=2, param_scheduler=[WARM_UP, dict(STEP, type=MultiStepLR)]),
        dict(epochs=1),
        dict(epochs=1, param_scheduler=[dict(type='CosineAnnealingLR', eta_min=0, by_epoch=False)]),
        dict(epochs=2, param_scheduler=dict(type='ExponentialLR', gamma=0.5)),
    ]
    lr = learning_rates(schedule(parse_stages(stages), 6), 1.0, 7, 6).reshape(7, 6)
    warm_up = [0.25, 0.625, 1, 1, 1, 1]
    cosine = [(1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)]
    assert lr == pytest.approx(np.array([warm_up, warm_up, [0.1] * 6, [1] * 6, cosine, [1] * 6, [0.5] * 6]))


def test_a_scheduler_that_goes_on_after_its_stage_is_cut_off_with_a_warning(monkeypatch):
    told = []
    monkeypatch.setattr('mmoid.engine.schedule.hybrid_schedule.print_log', lambda text, *_: told.append(text))
    late = [dict(STEP, milestones=[1, 2]), dict(WARM_UP, end=13), dict(type='CosineAnnealingLR', begin=2, end=5)]
    stages = parse_stages([dict(epochs=2, param_scheduler=[dict(STEP, end=2), *late]), dict(epochs=1)])
    assert learning_rates(schedule(stages, 6), 1.0, 3, 6)[12:] == pytest.approx([1] * 6)
    known = [('MultiStepLR', '2 epochs'), ('LinearLR', '12 iterations'), ('CosineAnnealingLR', '2 epochs')]
    where = 'HybridSchedule.stages[0]'
    assert told == [f'{where}: {kind} goes on after the {n} of the stage and is cut off there' for kind, n in known]


def test_a_scheduled_momentum_is_set_back_too(tiny_data, tmp_path):
    stages = [dict(epochs=2, param_scheduler=dict(type='MultiStepMomentum', milestones=[1], gamma=0.5)), dict(epochs=1)]
    train(tiny_data, tmp_path, stages=stages)
    assert [line['momentum'] for line in history(tmp_path).values()] == [0.9] * 6 + [0.45] * 6 + [0.9] * 6


def test_a_rate_that_follows_the_metric_does_so_inside_its_stage(tiny_data, tmp_path):
    plateau = dict(type='ReduceOnPlateauLR', monitor='mean/score', rule='less', factor=0.5, patience=0, threshold=9)
    stages = [dict(epochs=1), dict(epochs=3, param_scheduler=plateau), dict(epochs=1, param_scheduler=plateau)]
    train(tiny_data, tmp_path, stages=stages)
    # No score is good enough: the rate is halved after each epoch of the second stage that another one follows.
    assert [epoch[0] for epoch in lr_by_epoch(tmp_path).values()] == [0.05, 0.05, 0.025, 0.0125, 0.05]


def test_early_stopping_before_the_last_stage_is_logged(tiny_data, tmp_path):
    stages = [dict(name='natural', epochs=3), dict(epochs=3, sampler=BALANCED)]
    stop = dict(type='EarlyStoppingHook', monitor='mean/score', rule='less', min_delta=9, patience=1)
    run = train(tiny_data, tmp_path, stages=stages, **{'default_hooks.stop': stop})
    assert len(history(tmp_path)) == 12
    assert 'The run ended before its last stage, "stage 2": EarlyStoppingHook ends the run, not the stage' in log(run)


def test_stages_leave_the_schedulers_of_the_run_and_the_interval_of_validations_alone(tiny_data, tmp_path):
    options = {'param_scheduler': [dict(STEP, gamma=0.5)], 'train_cfg.val_interval': 2}
    train(tiny_data, tmp_path, stages=[dict(epochs=3), dict(epochs=2)], **options)
    assert lr_by_epoch(tmp_path) == {0: [0.05] * 6} | {epoch: [0.025] * 6 for epoch in (1, 2, 3, 4)}
    text = (tmp_path / 'rank0.jsonl').read_text()
    assert [epoch for epoch in range(1, 6) if f'"validation": {epoch}}}' in text] == [2, 4, 5]


def test_a_plan_is_the_same_whatever_the_order_of_keys():
    # mmengine sorts them in a config that it dumps.
    dumped = dict(sorted(WARM_UP.items()))
    assert list(dumped) != list(WARM_UP)
    one, other = (parse_stages([dict(epochs=1, param_scheduler=config)]) for config in (WARM_UP, dumped))
    assert plan(one) == plan(other)
