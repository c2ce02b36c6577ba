"""Settings that cannot work are reported before the first iteration; those with a plain meaning are taken for it."""

import pytest

from mmoid.engine import build_runner
from tests.engine import small_run
from tests.engine.run_checks import finish, history

pytestmark = pytest.mark.usefixtures('quick')


def run(data_root, work_dir, end=None, **options):
    runner = build_runner(small_run.config(data_root, work_dir, **{'batch_size': 8, 'end': end, **options}))
    finish(runner, end)
    return runner


ITERATIONS = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=5)
EVERY_EPOCH = dict(_delete_=True, type='CheckpointHook', interval=1)
STAGES = [dict(name='all', epochs=1)]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'default_hooks.checkpoint.save_best': 'coco/bbox_mAP'},
            r"checkpoint\.save_best is 'coco/bbox_mAP', but no metric .*: MeanScore gives mean/\.\.\.",
        ),
        (
            {'default_hooks.checkpoint.save_best': 'score'},
            r"save_best is 'score', but no metric of val_evaluator gives",
        ),
        ({'default_hooks.checkpoint.save_best': ['mean/score', 'mAP']}, r"save_best is 'mAP', but no metric"),
        (
            {'train_cfg': dict(ITERATIONS), 'custom_hooks': []},
            r'checkpoint \(ResumableCheckpointHook\) saves by epochs, but train_cfg\.type is IterBasedTrainLoop; set',
        ),
        (
            {'train_cfg': dict(ITERATIONS), 'custom_hooks': [], 'default_hooks.checkpoint': dict(EVERY_EPOCH)},
            r'checkpoint \(CheckpointHook\) saves by epochs, but train_cfg\.type is IterBased.*by_epoch=False',
        ),
        (
            {'train_dataloader.sampler.type': 'InfiniteSampler'},
            r'train_dataloader\.sampler is InfiniteSampler, which never ends, but train_cfg\.type is ResumableEpoch',
        ),
        (
            {'train_dataloader.dataset.indices': 0},
            r'train_dataloader\.dataset \(OpenImagesHierarchyDataset\) has no images; check ann_file, filter_cfg',
        ),
        (
            {'default_hooks.sampler_seed': None},
            r'default_hooks\.sampler_seed is None: each epoch would have the images',
        ),
        (
            {'default_hooks.param_scheduler': None},
            r'default_hooks\.param_scheduler is None: the learning rate would no',
        ),
        ({'default_hooks.runtime_info': None}, r'default_hooks\.runtime_info is None'),
    ],
)
def test_settings_that_cannot_work_are_errors_at_the_start(tiny_data, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tiny_data, tmp_path, **options)
    assert not (tmp_path / 'rank0.jsonl').exists()


@pytest.mark.parametrize('score', ['openimages/map', 'openimages/mAP_50', 'coco/bbox_mAP', 'mAP'])
def test_a_score_that_our_metric_does_not_have_is_an_error_at_the_start(tiny_data, tmp_path, score):
    options = {
        'val_evaluator': dict(_delete_=True, type='OpenImagesChallengeMetric', ann_file=f'{tiny_data}/validation'),
        'default_hooks.checkpoint.save_best': score,
    }
    with pytest.raises(ValueError, match=rf"save_best is '{score}', .* did you mean 'openimages/mAP'\?"):
        run(tiny_data, tmp_path, **options)


def test_a_score_that_a_validation_does_not_give_is_an_error_with_those_that_it_gives(tiny_data, tmp_path):
    with pytest.raises(ValueError, match=r"save_best is 'mean/typo', but the validation gave 'mean/score'"):
        run(tiny_data, tmp_path, stages=STAGES, **{'default_hooks.checkpoint.save_best': 'mean/typo'})
    assert (tmp_path / 'epoch_1.pth').exists(), 'nothing is lost'


def test_a_default_hook_that_is_none_is_left_out(tiny_data, tmp_path):
    nothing = {f'default_hooks.{name}': None for name in ('visualization', 'class_order', 'timer', 'checkpoint')}
    runner = run(tiny_data, tmp_path, stages=STAGES, **nothing)
    left = {type(hook).__name__ for hook in runner.hooks}
    assert not {'DetVisualizationHook', 'ClassOrderCheckHook', 'IterTimerHook'} & left
    assert len(history(tmp_path)) == 6 and not list(tmp_path.glob('*.pth'))
