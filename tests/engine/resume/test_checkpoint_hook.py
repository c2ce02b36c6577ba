"""ResumableCheckpointHook: which files it keeps, which one a run resumes from, and damaged files."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from mmoid.engine.resume.checkpoint_hook import ResumableCheckpointHook, newest_first, require_same_run, try_load
from tests.engine.run_checks import assert_same, log, train


@pytest.fixture(scope='module')
def ended_once(tiny_data, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('ended') / 'run'
    train(tiny_data, work_dir, end=dict(at='iteration', number=17))
    return work_dir


@pytest.fixture
def ended(ended_once, tmp_path):
    """Work folder of a run that was ended after iter_16.pth, before iter_14.pth, before epoch_2.pth."""
    shutil.copytree(ended_once, tmp_path / 'run')
    (tmp_path / 'run' / 'last_checkpoint').write_text(str(tmp_path / 'run' / 'iter_16.pth'))
    return tmp_path / 'run'


def truncate(path):
    os.truncate(path, path.stat().st_size * 2 // 3)


def flip_a_weight(path):
    """Changes one byte of a tensor, which ``torch.load`` would not notice."""
    weight = try_load(path)['state_dict']['features.0.weight']
    content = bytearray(path.read_bytes())
    content[content.index(weight.numpy().tobytes()) + 5] ^= 255
    path.write_bytes(content)
    try_load(path)


def drop_the_optimizer(path):
    content = try_load(path)
    del content['optimizer']
    torch.save(content, path)


TRUNCATED = (truncate, 'it cannot be read, BadZipFile')
WITHOUT_OPTIMIZER = (drop_the_optimizer, "it has no 'optimizer'")  # as a best checkpoint
REMOVED = (Path.unlink, 'it cannot be read, FileNotFoundError')


@pytest.mark.parametrize(('damage', 'reason'), [TRUNCATED, WITHOUT_OPTIMIZER, (flip_a_weight, 'the checksum of')])
def test_a_damaged_newest_checkpoint_is_skipped_and_logged(whole, ended, tiny_data, damage, reason):
    damage(ended / 'iter_16.pth')
    run = train(tiny_data, ended, resume=True)
    assert f'resuming from {ended}/iter_14.pth; skipped {ended}/iter_16.pth' in log(run)
    assert reason in log(run)
    assert_same(ended, whole)


@pytest.mark.parametrize(('damage', 'reason'), [TRUNCATED, WITHOUT_OPTIMIZER, REMOVED])
def test_a_checkpoint_given_by_path_must_be_intact(ended, tiny_data, damage, reason):
    damage(ended / 'iter_16.pth')
    with pytest.raises(ValueError, match=rf'cannot resume exactly from .*iter_16\.pth: {reason}.*Give the path of'):
        train(tiny_data, ended, resume=True, load_from=str(ended / 'iter_16.pth'))


def test_a_run_with_only_damaged_checkpoints_does_not_start_again(ended, tiny_data):
    for path in ended.glob('*.pth'):
        truncate(path)
    with pytest.raises(ValueError, match=r'cannot resume exactly from .*iter_16\.pth: it cannot be read, .*iter_14'):
        train(tiny_data, ended, resume=True)


def test_a_run_without_checkpoints_starts(ended, tiny_data, whole):
    for path in ended.glob('*.pth'):
        path.unlink()
    run = train(tiny_data, ended, resume=True)
    assert f'no checkpoint to resume from in {ended}: starting a new run' in log(run)
    assert_same(ended, whole)


def test_a_moved_folder_is_resumed(ended, tiny_data, whole):
    (ended / 'last_checkpoint').write_text('/nowhere/iter_16.pth')
    os.utime(ended / 'iter_16.pth')
    train(tiny_data, ended, resume=True, end=dict(at='iteration', number=16))
    shutil.move(ended, ended.with_name('moved'))
    train(tiny_data, ended.with_name('moved'), resume=True)
    assert_same(ended.with_name('moved'), whole)


def test_a_run_that_was_set_back_resumes_from_there(ended, tiny_data):
    train(tiny_data, ended, resume=True, load_from=str(ended / 'epoch_1.pth'), end=dict(at='iteration', number=9))
    train(tiny_data, ended, resume=True, end=dict(at='iteration', number=8))
    assert (ended / 'last_checkpoint').read_text() == str(ended / 'iter_8.pth')
    assert not (ended / 'iter_14.pth').exists()


def test_which_checkpoints_are_kept(whole, ended):
    names = sorted(path.name for path in whole.glob('*.pth') if not path.name.startswith('best'))
    assert names == ['epoch_2.pth', 'epoch_3.pth', 'epoch_4.pth', 'iter_22.pth', 'iter_24.pth']
    assert (whole / 'last_checkpoint').read_text() == str(whole / 'epoch_4.pth')


def test_a_checkpoint_contains_the_settings_of_the_run(ended):
    meta = try_load(ended / 'iter_16.pth')['meta']
    assert (meta['epoch'], meta['iter']) == (2, 16)
    assert meta['stage'] == dict(index=1, name='soft balance')
    assert meta['run'] == dict(
        world_size=1, batch_size=8, total_batch_size=8, images=43, iterations_per_epoch=6, seed=0
    )
    assert try_load(ended / 'epoch_2.pth')['meta']['stage'] == dict(index=0, name='natural')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(by_epoch=False), r'checkpoint\.by_epoch is False; set iter_interval'),
        (dict(iter_interval=0), r'checkpoint\.iter_interval must be at least 1 or None, got 0'),
        (dict(max_keep_ckpts=1), r'checkpoint\.max_keep_ckpts must be at least 2, or -1, got 1'),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ResumableCheckpointHook(**options)


FACTS = dict(world_size=4, batch_size=2, total_batch_size=8, images=80, iterations_per_epoch=10, seed=0)


@pytest.mark.parametrize(
    ('own', 'inside', 'message'),
    [
        (dict(world_size=2, batch_size=4), True, r'world size\) is 2, but was 4 .* resume from .*epoch_\*\.pth'),
        (dict(world_size=2, total_batch_size=4), False, r'the total batch size .* is 4, but was 8 when'),
        (dict(images=81), False, r'the number of images in train_dataloader\.dataset is 81, but was 80 when'),
        (dict(iterations_per_epoch=11), False, r'the number of iterations of an epoch is 11, but was 10 when'),
        (dict(seed=1), False, r'randomness\.seed is 1, but was 0 when .* undo the change, or start a new run'),
    ],
)
def test_settings_that_must_match(own, inside, message):
    with pytest.raises(ValueError, match=message):
        require_same_run(FACTS, FACTS | own, inside)


def test_last_checkpoint_is_tried_first_then_the_newest_files(tmp_path):
    files = ['epoch_1.pth', 'iter_9.pth', 'epoch_3.pth', 'iter_30.pth', 'best_epoch_3.pth', 'epoch_3-0123abcd.pth']
    for age, name in enumerate(files):
        (tmp_path / name).write_bytes(b'torn')
        os.utime(tmp_path / name, ns=(10**18 - age * 10**9,) * 2)

    def names():
        return [path.name for path in newest_first(tmp_path, tmp_path, ['epoch_{}.pth', 'iter_{}.pth'])]

    assert names() == files[:4]
    (tmp_path / 'last_checkpoint').write_text(f'{tmp_path}/epoch_3.pth\n')
    assert names() == ['epoch_3.pth', 'epoch_1.pth', 'iter_9.pth', 'iter_30.pth']
