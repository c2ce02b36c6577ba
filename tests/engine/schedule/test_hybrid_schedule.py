"""HybridSchedule on real runs: one and two processes, with workers, killed and resumed."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

import mmoid
import mmoid.registry
from mmoid.engine.schedule.stages import parse_stages, schedule, stage_index
from tests.checkpoints import read_checkpoint
from tests.engine import small_run

ROOT = Path(__file__).parents[3]


def launch(processes, options, check=True):
    script = str(ROOT / 'tests' / 'engine' / 'small_run.py')
    options = dict(options, data_root=str(options['data_root']), work_dir=str(options['work_dir']))
    command = [sys.executable, script]
    if processes > 1:
        options['launcher'] = 'pytorch'
        command = [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            f'--nproc_per_node={processes}',
            script,
        ]
    return subprocess.run(
        [*command, json.dumps(options)], cwd=ROOT, check=check, capture_output=True, text=True, timeout=300
    )


def history(work_dir, processes):
    """Per rank, the lines of the run; a resumed run has written its epochs again."""
    return [
        [json.loads(line) for line in (Path(work_dir) / f'rank{rank}.jsonl').read_text().splitlines()]
        for rank in range(processes)
    ]


def handed_out(ranks, epoch):
    """Indices of one epoch, in the order of the sampler: rank 0's first, rank 1's first, rank 0's second, ..."""
    parts = [[i for line in rank if line['epoch'] == epoch for i in line['indices']] for rank in ranks]
    return [index for step in zip(*parts) for index in step]


def training_set(data_root):
    return mmoid.OpenImagesHierarchyDataset(f'{data_root}/train', filter_cfg=dict(filter_empty_gt=True))


@pytest.fixture(scope='module')
def whole_run(tiny_data, tmp_path_factory):
    """A function that gives the work folder of a run that ended well, made once for each kind."""
    folders = {}

    def folder(processes, persistent_workers):
        kind = processes, persistent_workers
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp('whole')
            options = dict(data_root=tiny_data, num_workers=2, persistent_workers=persistent_workers)
            launch(processes, dict(options, work_dir=folders[kind]))
        return folders[kind]

    return folder


@pytest.mark.parametrize('processes', [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize('persistent_workers', [False, True])
def test_the_loader_hands_out_what_the_stage_says(tiny_data, whole_run, processes, persistent_workers):
    ranks = history(whole_run(processes, persistent_workers), processes)
    data = training_set(tiny_data)
    for epoch in (0, 1):  # without replacement; a rank's last place is filled up from the start
        counts = Counter(handed_out(ranks, epoch))
        assert set(counts) == set(range(len(data)))
        assert sum(counts.values()) - len(data) < processes
    assert handed_out(ranks, 0) != handed_out(ranks, 1)
    sampler = mmoid.SoftBalanceClassAwareSampler(data, balance=0.7, seed=0)
    sampler.begin_at(2)
    series = []
    for epoch in (2, 3, 4):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert handed_out(ranks, epoch)[: len(drawn)] == drawn
        series += drawn
    # ... and these follow λ: class by class, the images drawn for it are as many as Eq. 8 expects.
    expected = (
        3
        * len(data)
        * np.array(mmoid.openimages.sampling.soft_balance.class_probabilities(data.class_image_counts(), 0.7))
    )
    counts = sum(sampler.draws.per_class(epoch) for epoch in range(3))
    assert np.abs(counts - expected).max() < 3
    rarest = int(np.argmin(np.where(data.class_image_counts() > 0, data.class_image_counts(), 10**9)))
    rare_images = set(data.image_indices_of_class(rarest).tolist())
    share = sum(i in rare_images for i in series) / len(series)
    assert share > 1.5 * len(rare_images) / len(data)


@pytest.mark.parametrize('processes', [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_killed_in_stage_2_resumes_there_with_the_right_rate(tiny_data, whole_run, tmp_path, processes):
    whole, killed = whole_run(processes, True), tmp_path
    options = dict(data_root=tiny_data, num_workers=1, persistent_workers=True)
    result = launch(processes, dict(options, work_dir=killed, kill_at=[3, 2], kill_rank=processes - 1), check=False)
    assert result.returncode != 0
    assert read_checkpoint(killed / 'epoch_3.pth')['meta']['stage'] == dict(index=1, name='soft balance')
    for rank in range(processes):
        (killed / f'rank{rank}.jsonl').unlink()
    launch(processes, dict(options, work_dir=killed, resume=True))
    expected = [[line for line in rank if line['epoch'] >= 3] for rank in history(whole, processes)]
    assert history(killed, processes) == expected
    assert {line['stage'] for line in expected[0]} == {2}
    weights = [read_checkpoint(path / 'epoch_5.pth')['state_dict'] for path in (whole, killed)]
    assert torch.equal(weights[0]['weight'], weights[1]['weight'])


def runner(data_root, work_dir, **options):
    cfg = small_run.config(data_root, work_dir, **options)
    cfg.experiment_name = f'{work_dir.name}-{len(DefaultScope._instance_dict)}'
    return Runner.from_cfg(cfg)


def test_the_learning_rate_starts_again_with_its_own_warm_up(tiny_data, tmp_path):
    run = runner(tiny_data, tmp_path)
    run.train()
    (lines,) = history(tmp_path, 1)
    rates = {}
    for line in lines:
        rates.setdefault(line['epoch'], []).append(line['lr'])
    length = len(run.train_dataloader)
    assert rates[0] == pytest.approx([0.01] * length)
    assert rates[1] == pytest.approx([0.001] * length)
    assert rates[2] == pytest.approx([0.0025, 0.00625, *[0.01] * (length - 2)])
    assert rates[3] == pytest.approx([0.01] * length)
    assert rates[4] == pytest.approx([0.001] * length)
    assert [line['stage'] for line in lines] == [1] * 2 * length + [2] * 3 * length


def test_the_stage_is_logged(tiny_data, tmp_path):
    run = runner(tiny_data, tmp_path, log_level='INFO')
    run.train()
    log = Path(run.log_dir, f'{run.timestamp}.log').read_text()
    assert 'Stage 2 of 2 "soft balance": epoch 1 of 3, SoftBalanceClassAwareSampler, learning rate 0.0025' in log
    scalars = [json.loads(line) for line in Path(run.log_dir, 'vis_data', 'scalars.json').read_text().splitlines()]
    assert {line['stage'] for line in scalars if 'stage' in line} == {1, 2}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'train_cfg.max_epochs': 6},
            r'HybridSchedule\.stages have 2 \+ 3 = 5 epochs, train_cfg\.max_epochs is 6; they must be equal',
        ),
        (
            {'param_scheduler': [dict(type='ConstantLR', factor=1.0)]},
            r'param_scheduler and HybridSchedule\.stages\[\.\.\.\]\.param_scheduler are both set',
        ),
        (
            {'train_cfg': dict(_delete_=True, type='IterBasedTrainLoop', max_iters=5)},
            'HybridSchedule needs an epoch-based train loop, train_cfg builds a IterBasedTrainLoop',
        ),
        (
            {'stages': [dict(epochs=1), dict(epochs=1, sampler=dict(type='SoftBalanceClassAwareSampler', balance=-1))]},
            r'sampler\.balance \(λ\) must be >= 0, got -1',
        ),
        (
            {
                'stages': [
                    dict(epochs=1),
                    dict(epochs=1, sampler=dict(type='SoftBalanceClassAwareSampler', samples_per_epoch=8)),
                ]
            },
            r'stages\[1\]\.sampler gives 8 samples an epoch on this rank, train_dataloader\.sampler gives \d+',
        ),
        ({'stages': [dict(epochs=0)]}, r'stages\[0\]\.epochs must be an integer of at least 1, got 0'),
        ({'stages': [dict(epochs=1, lr=3)]}, r"stages\[0\] has the unknown key 'lr'; known are name, epochs"),
    ],
)
def test_a_wrong_plan_is_told_before_the_first_iteration(tiny_data, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        runner(tiny_data, tmp_path, **options).train()
    assert not (tmp_path / 'rank0.jsonl').exists()


def test_no_stage_is_no_plan():
    with pytest.raises(ValueError, match='stages is empty'):
        parse_stages([])


def test_a_stage_is_found_from_the_epoch_alone():
    stages = parse_stages([dict(epochs=2), dict(epochs=1), dict(epochs=4)])
    assert [stage_index(stages, epoch) for epoch in range(9)] == [0, 0, 1, 2, 2, 2, 2, 2, 2]


def test_stages_without_schedulers_leave_the_runs_own_alone(tiny_data, tmp_path):
    stages = [dict(epochs=1), dict(epochs=1, sampler=dict(type='SoftBalanceClassAwareSampler'))]
    own = [dict(type='MultiStepLR', milestones=[1], gamma=0.5)]
    runner(tiny_data, tmp_path, stages=stages, param_scheduler=own).train()
    rates = {line['epoch']: line['lr'] for line in history(tmp_path, 1)[0]}
    assert rates == {0: 0.01, 1: 0.005}


def test_the_schedule_of_the_paper():
    step = dict(type='MultiStepLR', milestones=[4, 6], gamma=0.1)
    stages = parse_stages(
        [dict(epochs=14, param_scheduler=dict(step, milestones=[8, 11])), dict(epochs=7, param_scheduler=step)]
    )
    assert schedule(stages, epoch_length=100) == [
        dict(type='MultiStepLR', milestones=[8, 11], gamma=0.1, begin=0, end=14),
        dict(type='StageRestartLR', begin=1400, end=1401, by_epoch=False),
        dict(type='MultiStepLR', milestones=[4, 6], gamma=0.1, begin=14, end=21),
    ]
