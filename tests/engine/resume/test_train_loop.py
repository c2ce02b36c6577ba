"""ResumableEpochTrainLoop on real runs of one process, ended at every place and resumed."""

import json
from pathlib import Path

import pytest

import mmoid
from mmoid.engine.launch import build_runner, load_config
from mmoid.engine.resume.checkpoint_hook import try_load
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.engine import small_run
from tests.engine.run_checks import (
    assert_equal,
    assert_same,
    finish,
    history,
    iterations,
    log,
    state,
    train,
    train_in_pieces,
)

ITERATIONS = 24  # six in each of four epochs
DETECTOR = 'configs/openimages/faster-rcnn_r18-small_fpn_2xb4-hybrid-3e-2e_openimages.py'
MIXING = [dict(type='Mosaic', img_scale=(48, 48)), dict(type='PackDetInputs')]


def test_a_run_ended_in_every_iteration_is_the_run_that_was_not(whole, tiny_data, tmp_path):
    options = {'default_hooks.checkpoint.iter_interval': 1}
    train_in_pieces(tiny_data, tmp_path, iterations(range(ITERATIONS)), **options)
    assert len(history(whole)) == ITERATIONS
    assert_same(tmp_path, whole)


def test_workers_load_what_the_main_process_would(whole, tiny_data, tmp_path):
    # Iterations that are no multiple of the interval are done again.
    train_in_pieces(tiny_data, tmp_path, iterations([1, 9, 12, 13, 23]), num_workers=2)
    assert_same(tmp_path, whole)


def test_a_run_ended_while_it_validates_or_writes_is_the_run_that_was_not(whole, tiny_data, tmp_path):
    ends = [
        dict(at=at, number=number)
        for place in (
            # Checkpoints of one process: 2, 4, epoch 1, best, epoch 1 again, 8, 10, epoch 2, (best, epoch 2 again,) ...
            [('writing', 0), ('naming', 0), ('pointing', 0)],
            [('validation', 1), ('writing', 0), ('naming', 0), ('writing', 1), ('naming', 1), ('pointing', 1)],
            [('writing', 2), ('pointing', 2)],
            [('validation', epoch) for epoch in (3, 4)],
        )
        for at, number in place
    ]
    train_in_pieces(tiny_data, tmp_path, ends)
    assert_same(tmp_path, whole)
    assert not list(tmp_path.glob('.writing*'))


def foreign(kind, data_root):
    part = dict(type='OpenImagesHierarchyDataset', ann_file=f'{data_root}/train', pipeline=small_run.PIPELINE)
    if kind == 'concatenated':
        return dict(_delete_=True, type='ConcatDataset', datasets=[dict(part, indices=14), dict(part, indices=20)])
    loading = dict(part, pipeline=small_run.PIPELINE[:2])
    return dict(_delete_=True, type='MultiImageMixDataset', dataset=loading, pipeline=MIXING)


@pytest.mark.parametrize('kind', ['concatenated', 'mixed'])
def test_data_sets_of_mmdet_resume_too(tiny_data, tmp_path, kind):
    options = {
        'stages': [dict(name='all', epochs=2)],
        'train_dataloader.batch_sampler': None,
        'train_dataloader.dataset': foreign(kind, tiny_data),
    }
    train(tiny_data, tmp_path / 'whole', **options)
    train_in_pieces(tiny_data, tmp_path / 'pieces', iterations([3, 7]), num_workers=2, persistent=False, **options)
    assert_same(tmp_path / 'pieces', tmp_path / 'whole')


def test_a_detector_of_our_configs_resumes_too(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv('MMOID_DATA_ROOT', str(tiny_data))
    monkeypatch.setenv('MMOID_NUM_CLASSES', str(AnnotationStore(tiny_data / 'train').num_classes))
    options = {
        'train_cfg.max_epochs': 2,
        'custom_hooks.0.stages.0.epochs': 1,
        'custom_hooks.0.stages.1.epochs': 1,
        'train_dataloader.dataset.indices': 12,
        'val_dataloader': dict(num_workers=0, persistent_workers=False, dataset=dict(indices=2)),
        'default_hooks.checkpoint.iter_interval': 2,
        'log_level': 'WARNING',
    }
    ends = [None, *iterations([1, 5]), None]
    for run, end in enumerate(ends):
        work_dir = tmp_path / ('pieces' if run else 'whole')
        cfg = load_config(DETECTOR, {**options, 'resume': run > 1}, str(work_dir))
        cfg.custom_hooks.append(dict(type='RunRecorder', end=end))
        cfg.experiment_name = f'detector-{run}'
        finish(build_runner(cfg), end)
    assert_same(tmp_path / 'pieces', tmp_path / 'whole')
    assert len(history(tmp_path / 'whole')) == 6


def test_ema_accumulated_gradients_and_a_scaled_rate_resume_too(tiny_data, tmp_path):
    options = {
        'hooks': [dict(type='EMAHook', momentum=0.1)],
        'optim_wrapper.accumulative_counts': 4,  # two iterations of an epoch's six are left over
        'auto_scale_lr': dict(enable=True, base_batch_size=2),
        'default_hooks.checkpoint.iter_interval': 3,
    }
    train(tiny_data, tmp_path / 'whole', **options)
    ends = [*iterations([5, 6, 7, 11, 12, 18, 21]), dict(at='validation', number=4)]
    train_in_pieces(tiny_data, tmp_path / 'pieces', ends, **options)
    assert_same(tmp_path / 'pieces', tmp_path / 'whole')
    assert history(tmp_path / 'whole')[17]['lr'] == pytest.approx(4 * 0.05)
    assert 'ema_state_dict' in state(tmp_path / 'whole' / 'epoch_4.pth')
    # An epoch's checkpoint between two updates is passed over, one inside an epoch waits: 3 -> 4, 6 -> 8.
    assert try_load(tmp_path / 'pieces' / 'epoch_3.pth')['meta']['pending_gradients']
    assert {path.name for path in (tmp_path / 'pieces').glob('iter_*')} == {'iter_20.pth', 'iter_24.pth'}


def test_early_stopping_and_a_rate_that_follows_the_metric_resume_too(tiny_data, tmp_path):
    follow = dict(monitor='mean/score', rule='less')
    options = {
        'stages': [dict(name='all', epochs=6)],
        'param_scheduler': [dict(follow, type='ReduceOnPlateauLR', factor=0.5, patience=0, threshold=9)],
        'default_hooks.stop': dict(follow, type='EarlyStoppingHook', min_delta=9, patience=2),
    }
    train(tiny_data, tmp_path / 'whole', **options)
    ends = [dict(at='validation', number=1), *iterations([6, 9]), dict(at='validation', number=2), *iterations([12])]
    train_in_pieces(tiny_data, tmp_path / 'pieces', ends, **options)
    lines = history(tmp_path / 'whole')
    assert len(lines) < 36
    assert len({line['lr'] for line in lines.values()}) > 1
    assert_same(tmp_path / 'pieces', tmp_path / 'whole')
    train(tiny_data, tmp_path / 'pieces', resume=True, **options)  # a run that had ended is not gone on with
    assert history(tmp_path / 'pieces') == lines


def test_two_draws_of_an_image_are_augmented_differently(whole):
    draws = [
        (line['epoch'], image, tuple(shape), pixels)
        for line in history(whole).values()
        for image, shape, pixels in zip(line['images'], line['shapes'], line['pixels'])
    ]
    assert len({draw[:2] for draw in draws}) < len(set(draws)) == len(draws)


def test_a_data_set_that_loads_whole_batches_still_does_and_resumes(tiny_data, tmp_path, monkeypatch):
    loaded = []

    def load(data, batch):
        loaded.append(batch)
        return [data[index] for index in batch]

    monkeypatch.setattr(mmoid.OpenImagesHierarchyDataset, '__getitems__', load, raising=False)
    options = {'stages': [dict(name='all', epochs=2)]}
    train(tiny_data, tmp_path / 'whole', **options)
    assert [len(batch) for batch in loaded] == [*[8, 8, 8, 8, 8, 3], 2] * 2, 'validations too'
    train_in_pieces(tiny_data, tmp_path / 'pieces', iterations([3, 7]), num_workers=2, **options)
    assert history(tmp_path / 'pieces') == history(tmp_path / 'whole')


def test_images_that_are_done_are_not_loaded_again(tiny_data, tmp_path, monkeypatch):
    train(tiny_data, tmp_path, end=dict(at='iteration', number=4))
    loaded = []
    kind = mmoid.OpenImagesHierarchyDataset
    load = kind.prepare_data
    monkeypatch.setattr(kind, 'prepare_data', lambda data, idx: loaded.append(idx) or load(data, idx))
    train(tiny_data, tmp_path, resume=True, end=dict(at='iteration', number=4))
    assert len(loaded) == 8


def test_validations_are_made_up_for_once(whole, tiny_data, tmp_path):
    train_in_pieces(tiny_data, tmp_path, [dict(at='validation', number=2), *iterations([12])])
    lines = [json.loads(text) for text in (tmp_path / 'rank0.jsonl').read_text().splitlines()]
    assert [line['validation'] for line in lines if 'validation' in line] == [1, 2, 2, 3, 4]
    best = [sorted(path.name for path in folder.glob('best*')) for folder in (whole, tmp_path)]
    assert best[0] == best[1] and len(best[0]) == 1
    assert_equal(*[try_load(folder / best[0][0])['state_dict'] for folder in (whole, tmp_path)])


def test_the_log_goes_on_with_the_right_numbers(tiny_data, tmp_path):
    options = dict(log_level='INFO', stages=[dict(name='all', epochs=2)])
    train(tiny_data, tmp_path, end=dict(at='iteration', number=8), **options)
    run = train(tiny_data, tmp_path, resume=True, **options)
    assert 'Epoch(train) [2][4/6]' in log(run)
    text = Path(run.log_dir, 'vis_data', 'scalars.json').read_text()
    assert [line['step'] for line in map(json.loads, text.splitlines()) if 'loss' in line][-2:] == [10, 12]


@pytest.fixture(scope='module')
def ended(tiny_data, tmp_path_factory):
    """Work folder of a run that was ended inside the third epoch, the first of soft balance."""
    work_dir = tmp_path_factory.mktemp('ended')
    train(tiny_data, work_dir, end=dict(at='iteration', number=15))
    return work_dir


def with_second(**options):
    return [small_run.STAGES[0], dict(small_run.STAGES[1], **options)]


OTHER_STAGES = with_second(sampler=dict(small_run.BALANCED, balance=0.5))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'randomness.seed': 1}, r'randomness\.seed is 1, but was 0 when the checkpoint was written; undo the change'),
        ({'stages': OTHER_STAGES}, r'the first 2 batches of epoch 3 are not those that the checkpoint was trained on'),
        ({'train_dataloader.batch_sampler': None}, r'the first 2 batches of epoch 3 are not those'),
        ({'stages': with_second(epochs=3)}, r"stages\[1\] is {'epochs': 3, .* but was {'epochs': 2,"),
        ({'stages': with_second(param_scheduler=None)}, r'stages\[1\] is .*null.* but was .*MultiStepLR'),
        ({'stages': small_run.STAGES[:1]}, r'stages\[1\] is None, but was .* start a new run from its weights'),
    ],
)
def test_a_changed_run_is_not_resumed(tiny_data, ended, options, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_data, ended, resume=True, **options)


def test_between_epochs_the_balance_may_be_another(tiny_data, ended):
    begin = dict(load_from=str(ended / 'epoch_2.pth'), end=dict(at='iteration', number=12))
    train(tiny_data, ended, resume=True, stages=OTHER_STAGES, **begin)


def test_a_checkpoint_of_mmengine_is_resumed_between_epochs_only(tiny_data, tmp_path):
    hook = dict(_delete_=True, type='CheckpointHook', interval=1, by_epoch=False)
    plain = {'train_cfg.type': 'EpochBasedTrainLoop', 'default_hooks.checkpoint': hook}
    train(tiny_data, tmp_path / 'iter', end=dict(at='iteration', number=8), **plain)
    with pytest.raises(ValueError, match=r'inside epoch 2: the checkpoint was not written under Resumable'):
        train(tiny_data, tmp_path / 'iter', resume=True)
    hook['by_epoch'] = True
    train(tiny_data, tmp_path / 'epoch', end=dict(at='iteration', number=8), **plain)
    train(tiny_data, tmp_path / 'epoch', resume=True, end=dict(at='iteration', number=7))
