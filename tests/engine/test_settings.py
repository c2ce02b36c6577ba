"""Settings that cannot work are reported before the first iteration; those with a plain meaning are taken for it."""

from types import SimpleNamespace

import pytest

from mmoid.engine.launch import build_runner
from mmoid.engine.settings import require_scores
from tests.engine import small_run
from tests.engine.run_checks import history

BY_ITERATIONS = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=5)
EVERY_EPOCH = dict(_delete_=True, type='CheckpointHook', interval=1)
OF_ITERATIONS = {'train_cfg': BY_ITERATIONS, 'custom_hooks': [], 'default_hooks.checkpoint': EVERY_EPOCH}
BEST = dict(EVERY_EPOCH, save_best='coco/bbox_mAP', rule='greater')
STOP = dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP')
SAVE_BEST = 'default_hooks.checkpoint.save_best'
STAGES = [dict(name='all', epochs=1)]
KNOWN = ('coco/bbox_mAP', 'coco/cat_precision', 'auto')
ENDLESS_STAGE = [dict(epochs=1), dict(epochs=1, sampler=dict(type='InfiniteSampler'))]
SHORT_STAGE = [dict(epochs=1), dict(epochs=1, sampler=dict(small_run.BALANCED, samples_per_epoch=8))]


def run(data_root, work_dir, **options):
    runner = build_runner(small_run.config(data_root, work_dir, batch_size=8, **options))
    runner.train()
    return runner


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({SAVE_BEST: ['mean/score', 'coco/bbox_mAP']}, r"save_best of ResumableC.* is 'coco/bbox_mAP', but no metric"),
        (dict(OF_ITERATIONS), r'\(CheckpointHook\) saves by epochs, but train_cfg.* IterBased.*by_epoch=False'),
        ({'train_dataloader.sampler.type': 'InfiniteSampler'}, r'r\.sampler is InfiniteSampler, which never ends, but'),
        ({'stages': ENDLESS_STAGE}, r'HybridSchedule\.stages\[1\]\.sampler is InfiniteSampler, which never ends, but'),
        ({'train_dataloader.dataset.indices': 0}, r'dataset \(OpenImagesH.*\) has no images; check ann_file, filter'),
        ({'default_hooks.checkpoint': BEST}, r"CheckpointHook is 'coco/bbox_mAP', but .*: MeanScore gives mean/\.\.\."),
        ({'hooks': [STOP]}, r"monitor of EarlyStoppingHook is 'coco/bbox_mAP', but no metric"),
        ({'randomness.seed': None}, r'randomness\.seed is None: a resumed run would see other images'),
        ({'randomness.diff_rank_seed': True}, r'randomness\.diff_rank_seed is True'),
        ({'train_dataloader.batch_sampler.drop_last': True}, r'batch_sampler\.drop_last is True: AspectRatioBatch'),
        ({'train_cfg.type': 'EpochBasedTrainLoop'}, r"iter_interval is 2, .* set train_cfg\.type='Resumable"),
        ({'train_cfg.max_epochs': 6}, r'stages have 2 \+ 2 = 4 epochs, train_cfg\.max_epochs is 6'),
        ({'param_scheduler': [small_run.STEP]}, r'param_scheduler is set beside those of HybridSchedule\.stages'),
        ({'train_cfg': dict(BY_ITERATIONS), 'default_hooks.checkpoint': None}, 'needs a train loop by epochs'),
        ({'stages': SHORT_STAGE}, r'stages\[1\]\.sampler gives 8 .* on this rank, train_dataloader\.sampler gives \d+'),
        ({'default_hooks.sampler_seed': None}, r'sampler_seed is None: each epoch would have the images in the same'),
        ({'default_hooks.param_scheduler': None}, r'param_scheduler is None: the learning rate would not change'),
        ({'default_hooks.runtime_info': None}, r'runtime_info is None: the log has no learning rate'),
    ],
)
def test_settings_that_cannot_work_are_errors_at_the_start(tiny_data, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tiny_data, tmp_path, **options)
    assert not (tmp_path / 'rank0.jsonl').exists()


@pytest.mark.parametrize('score', ['openimages/map', 'openimages/mAP_50', 'coco/mAP', 'mAP', *KNOWN])
def test_a_score_that_a_metric_does_not_have_is_an_error_with_one_that_it_has(score):
    kinds = dict(OpenImagesChallengeMetric='openimages', CocoMetric='coco')
    evaluator = SimpleNamespace(metrics=[type(kind, (), dict(prefix=prefix))() for kind, prefix in kinds.items()])
    if score in KNOWN:
        require_scores(['openimages/mAP_level2', 'openimages/mAP_rare', score], 'save_best', evaluator)
    else:
        with pytest.raises(ValueError, match=rf"save_best is '{score}', .* did you mean 'openimages/mAP'\?"):
            require_scores([score], 'save_best', evaluator)


def test_a_score_that_a_validation_does_not_give_is_an_error_with_those_that_it_gives(tiny_data, tmp_path):
    with pytest.raises(ValueError, match=r"save_best is 'mean/typo', but the validation gave 'mean/score'"):
        run(tiny_data, tmp_path, stages=STAGES, **{SAVE_BEST: 'mean/typo'})
    assert (tmp_path / 'epoch_1.pth').exists(), 'nothing is lost'


def test_a_default_hook_that_is_none_is_left_out(tiny_data, tmp_path):
    nothing = {f'default_hooks.{name}': None for name in ('visualization', 'class_order', 'timer', 'checkpoint')}
    runner = run(tiny_data, tmp_path, stages=STAGES, **nothing)
    left = {type(hook).__name__ for hook in runner.hooks}
    assert not {'DetVisualizationHook', 'ClassOrderCheckHook', 'IterTimerHook'} & left
    assert len(history(tmp_path)) == 6 and not list(tmp_path.glob('*.pth'))
