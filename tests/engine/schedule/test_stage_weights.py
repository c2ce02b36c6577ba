"""Loss weights of a stage, and stages that begin with the best checkpoint so far, on real runs."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MessageHub
from mmengine.registry import HOOKS, METRICS

from mmoid.engine.schedule.stages import parse_stages
from tests.checkpoints import read_checkpoint
from tests.engine.resume import resume_run
from tests.engine.resume.resume_checks import assert_equal, build, finish, history, state, train

NATURAL = dict(name='natural', epochs=2)
BALANCED = dict(name='soft balance', epochs=2, sampler=dict(type='SoftBalanceClassAwareSampler'))
FROM_BEST = dict(BALANCED, load_best=True)
SCORES = (0.4, 0.3, 0.5, 0.2)  # the first epoch is the best of the first stage, the third of all
SCORED = {'val_evaluator': dict(type='GivenScores', scores=SCORES), 'default_hooks.checkpoint.save_best': 'given/score'}


@pytest.fixture(scope='module', autouse=True)
def quick():
    with resume_run.plain_config_text():
        yield


@HOOKS.register_module()
class StageWatch(Hook):
    """Sees what every iteration begins with."""

    priority = 'LOWEST'

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append(
            dict(
                loss_weight=runner.model.loss.loss_weight,
                state={key: value.clone() for key, value in runner.model.state_dict().items()},
                momenta=len(runner.optim_wrapper.optimizer.state),
                averages=[
                    {key: value.clone() for key, value in hook.ema_model.state_dict().items()}
                    for hook in runner.hooks
                    if isinstance(hook, EMAHook)
                ],
            )
        )


@METRICS.register_module()
class GivenScores(BaseMetric):
    """The first score for the first epoch, and so on; what the model says does not count."""

    default_prefix = 'given'

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def process(self, data_batch, data_samples):
        self.results.append(None)

    def compute_metrics(self, results):
        epoch = MessageHub.get_current_instance().get_info('validated_epoch')
        return dict(score=self.scores[epoch - 1], other=-self.scores[epoch - 1])


def watched(data_root, work_dir, **options):
    """Trains; returns what the iterations began with."""
    run = build(data_root, work_dir, hooks=[*options.pop('hooks', []), dict(type='StageWatch')], **options)
    finish(run, options.get('end'))
    return next(hook.seen for hook in run.hooks if isinstance(hook, StageWatch))


def test_a_stage_has_its_loss_weights_and_the_next_the_initial_ones(tiny_data, tmp_path):
    weights = [None, {'loss': 2.5}, None, {'loss': 0}]
    stages = [dict(epochs=1, loss_weights=each) for each in weights]
    seen = watched(tiny_data, tmp_path, stages=stages)
    assert [each['loss_weight'] for each in seen] == [1.0] * 6 + [2.5] * 6 + [1.0] * 6 + [0] * 6
    back = dict(resume=True, load_from=str(tmp_path / 'epoch_2.pth'))
    seen = watched(tiny_data, tmp_path, stages=stages, **back)
    assert [each['loss_weight'] for each in seen] == [1.0] * 6 + [0] * 6


def test_a_loss_weight_takes_part_in_the_training(tiny_data, tmp_path):
    for name, weight in (('once', 1.0), ('twice', 2.0)):
        stages = [dict(epochs=1, loss_weights={'loss': weight})]
        train(tiny_data, tmp_path / name, stages=stages, **{'optim_wrapper.clip_grad': None})
    once, twice = (history(tmp_path / name) for name in ('once', 'twice'))
    assert once[0]['weights'] == twice[0]['weights'] and once[1]['weights'] != twice[1]['weights']


def test_loss_weights_may_come_from_the_command_line():
    # --cfg-options custom_hooks.0.stages.0.loss_weights.roi_head.bbox_head.loss_cls=2.0
    weights = {'rpn_head.loss_cls': 3.0, 'roi_head': {'bbox_head': {'loss_cls': 2.0}}}
    (stage,) = parse_stages([dict(epochs=1, loss_weights=weights)])
    assert stage.loss_weights == {'rpn_head.loss_cls': 3.0, 'roi_head.bbox_head.loss_cls': 2.0}


def test_a_stage_begins_with_the_best_weights_and_without_momentum(tiny_data, tmp_path):
    seen = watched(tiny_data, tmp_path, stages=[NATURAL, FROM_BEST], **SCORED)
    kept = tmp_path / 'stage_2_from_best_given_score_epoch_1.pth'
    assert_equal(dict(seen[12]['state']), dict(read_checkpoint(kept)['state_dict']))
    assert_equal(dict(seen[12]['state']), dict(seen[6]['state']))  # those at the end of the first epoch
    parameters = 6
    assert [each['momenta'] for each in seen] == [0, *[parameters] * 11, 0, *[parameters] * 11]
    plain = watched(tiny_data, tmp_path / 'plain', stages=[NATURAL, BALANCED], **SCORED)
    assert plain[12]['momenta'] == parameters
    assert not torch.equal(plain[12]['state']['head.weight'], seen[12]['state']['head.weight'])


@pytest.mark.parametrize('update_buffers', [False, True])
def test_averages_begin_anew_from_the_averages_that_were_validated(tiny_data, tmp_path, update_buffers):
    average = dict(type='EMAHook', momentum=0.1, update_buffers=update_buffers)
    seen = watched(tiny_data, tmp_path, stages=[NATURAL, FROM_BEST], hooks=[average], **SCORED)
    (average,) = seen[12]['averages']
    assert average.pop('steps') == 0
    assert_equal([*average.values()], [*seen[12]['state'].values()])
    (validated,) = seen[6]['averages']
    assert validated.pop('steps') == 6
    assert_equal(validated, average)
    assert not torch.equal(seen[6]['state']['head.weight'], seen[12]['state']['head.weight'])
    assert seen[13]['averages'][0]['steps'] == 1


def test_gradients_from_before_are_dropped(tiny_data, tmp_path):
    # Four of the six iterations make an update, the other two would be part of the first of the second stage.
    options = dict(stages=[dict(NATURAL, epochs=1), dict(FROM_BEST, epochs=1)], **SCORED)
    options['optim_wrapper.accumulative_counts'] = 4
    gradients = []

    class Gradients(Hook):
        priority = 'LOWEST'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            gradients.append([p.grad is not None and bool(p.grad.any()) for p in runner.model.parameters()])

    run = build(tiny_data, tmp_path, **options)
    run.register_hook(Gradients())
    finish(run, None)
    assert [any(each) for each in gradients] == [False, True, True, True, False, True] + [False, True] + [
        False,
        *[True] * 3,
    ]


def test_a_run_set_back_to_the_start_of_a_stage_finds_what_was_best_then(tiny_data, tmp_path):
    options = dict(stages=[NATURAL, FROM_BEST], **SCORED)
    train(tiny_data, tmp_path / 'run', **options)
    assert not (tmp_path / 'run' / 'best_given_score_epoch_1.pth').exists()  # the third epoch is better
    shutil.move(tmp_path / 'run', tmp_path / 'moved')
    expected = state(tmp_path / 'moved' / 'epoch_4.pth')
    train(tiny_data, tmp_path / 'moved', resume=True, load_from=str(tmp_path / 'moved' / 'epoch_2.pth'), **options)
    assert_equal(state(tmp_path / 'moved' / 'epoch_4.pth'), expected)
    again = dict(options, val_evaluator=dict(type='GivenScores', scores=(0.1, 0.9, 0, 0)))
    train(tiny_data, tmp_path / 'moved', **again)  # a new run in the same folder
    names = [path.name for path in (tmp_path / 'moved').glob('stage_*')]
    assert names == ['stage_2_from_best_given_score_epoch_2.pth']


def test_of_several_metrics_one_is_named(tiny_data, tmp_path):
    options = {'val_evaluator': SCORED['val_evaluator'], 'stages': [NATURAL, dict(FROM_BEST, load_best='given/other')]}
    options |= {'default_hooks.checkpoint': dict(save_best=['given/score', 'given/other'], rule='greater')}
    train(tiny_data, tmp_path, **options)
    assert [path.name for path in tmp_path.glob('stage_*')] == ['stage_2_from_best_given_other_epoch_2.pth']


def test_mmengines_own_loop_and_checkpoints_do_too(tiny_data, tmp_path):
    options = {
        'stages': [dict(NATURAL, loss_weights={'loss': 2.0}), FROM_BEST],
        'train_cfg.type': 'EpochBasedTrainLoop',
        'default_hooks.checkpoint': dict(
            _delete_=True, type='CheckpointHook', interval=1, save_best='auto', rule='less'
        ),
    }
    seen = watched(tiny_data, tmp_path, **options)
    (kept,) = tmp_path.glob('stage_2_from_best_mean_score_epoch_?.pth')
    assert_equal(dict(seen[12]['state']), dict(read_checkpoint(kept)['state_dict']))
    assert [each['loss_weight'] for each in seen] == [2.0] * 12 + [1.0] * 12
    resumed = watched(tiny_data, tmp_path, resume=True, load_from=str(tmp_path / 'epoch_3.pth'), **options)
    assert resumed[0]['momenta'] > 0  # nothing is loaded in the middle of a stage


def damage(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (damage, r'but .*stage_2_from_best_given_score_epoch_1\.pth cannot be read: BadZipFile'),
        (Path.unlink, r'but .*best_given_score_epoch_1\.pth is not there any more'),
    ],
)
def test_a_best_checkpoint_that_cannot_be_had_is_named(tiny_data, tmp_path, change, reason):
    options = dict(stages=[NATURAL, FROM_BEST], **SCORED)
    train(tiny_data, tmp_path, end=dict(at='iteration', number=12), **options)
    for path in (*tmp_path.glob('best*'), *tmp_path.glob('stage_2*')):
        if path.exists():
            change(path)
    with pytest.raises(
        ValueError, match=f'stage 2 "soft balance" is to begin with the best .*, {reason}.*load_best=Fa'
    ):
        train(tiny_data, tmp_path, resume=True, load_from=str(tmp_path / 'epoch_2.pth'), **options)
    train(tiny_data, tmp_path, resume=True, **dict(options, stages=[NATURAL, BALANCED]))


def test_scores_that_are_none_are_told_when_the_stage_begins(tiny_data, tmp_path):
    options = dict(SCORED, val_evaluator=dict(type='GivenScores', scores=[float('nan')] * 4))
    with pytest.raises(ValueError, match='but no validation gave a score that is better than none'):
        train(tiny_data, tmp_path, stages=[NATURAL, FROM_BEST], **options)
    assert len(history(tmp_path)) == 12


WEIGHTED = [dict(epochs=1), dict(epochs=1, loss_weights={'features.0': 2.0})]
UNKNOWN = [dict(epochs=1), dict(epochs=1, loss_weights={'bbox_head.loss_cls': 2.0})]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'stages': WEIGHTED},
            r"stages\[1\]\.loss_weights\['features\.0'\]: the Conv2d there has no loss_weight .* are loss",
        ),
        ({'stages': UNKNOWN}, r"stages\[1\]\.loss_weights\['bbox_head\.loss_cls'\]: the model has no such module"),
        (
            {'stages': [dict(epochs=1, loss_weights={'loss': -1})]},
            r"loss_weights\['loss'\] must be a number of .* got -1",
        ),
        (
            {'stages': [dict(epochs=1, loss_weights=[2.0])]},
            r'stages\[0\]\.loss_weights must be a dict such as .*got \[2',
        ),
        (
            {'stages': [FROM_BEST]},
            r'stages\[0\]\.load_best is True, but nothing comes before the first stage; set load_f',
        ),
        (
            {'stages': [NATURAL, dict(FROM_BEST, load_best=1)]},
            r'stages\[1\]\.load_best must be True, False or .* got 1',
        ),
        (
            {'stages': [NATURAL, FROM_BEST], 'default_hooks.checkpoint.save_best': None},
            r'stages\[1\]\.load_best is True, but no best checkpoint is kept; set default_hooks\.checkpoint\.save_best',
        ),
        (
            {'stages': [NATURAL, FROM_BEST], 'default_hooks.checkpoint.save_best': ['a', 'b']},
            r'load_best is True, but save_best has several metrics; name one: a, b',
        ),
        (
            {'stages': [NATURAL, dict(FROM_BEST, load_best='mAP')]},
            r"load_best is 'mAP', but save_best of the checkpoint hook has mean/score",
        ),
        (
            {'stages': [NATURAL, FROM_BEST], 'val_dataloader': None, 'val_evaluator': None, 'val_cfg': None},
            r'load_best is True, but nothing is validated; set val_dataloader',
        ),
        (
            {'stages': [NATURAL, FROM_BEST], 'train_cfg.val_begin': 3},
            r'none of the 2 epochs before it ends with a validation; change train_cfg\.val_begin \(3\)',
        ),
        (
            {'stages': [NATURAL, FROM_BEST], 'train_cfg.val_interval': 4},
            r'none of the 2 epochs before it .* train_cfg\.val_interval \(4\)',
        ),
    ],
)
def test_a_plan_that_cannot_be_is_told_before_the_first_iteration(tiny_data, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_data, tmp_path, **options)
    assert not (tmp_path / 'rank0.jsonl').exists()
