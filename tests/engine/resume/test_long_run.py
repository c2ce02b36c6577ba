"""Long runs: what ranks and workers hold does not grow with the epochs, nor at the switch of a stage."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.logging import HistoryBuffer

import mmoid.registry  # noqa: F401
from mmoid.engine.hooks.log_history import LogHistoryHook
from tests.engine import small_run
from tests.engine.machines import launches, on_one_machine, write_config
from tests.engine.run_checks import build

MIB = 1 << 20
NATURAL = dict(name='natural', param_scheduler=dict(type='MultiStepLR', milestones=[1], gamma=0.1))
BALANCED = dict(NATURAL, name='soft balance', sampler=dict(type='SoftBalanceClassAwareSampler', balance=0.7))


def run_for_long(data_root, work_dir, epochs, ranks, workers, persistent):
    """Trains in stages of so many ``epochs``, validates and writes checkpoints; what each rank and its workers held.

    Returns:
        For each rank its epochs: private bytes of its processes, their open files, batches on their way.
    """
    stages = [dict((NATURAL, BALANCED)[k % 2], name=f'stage {k}', epochs=n) for k, n in enumerate(epochs)]
    options = dict(stages=stages, num_workers=workers, persistent=persistent, hooks=[dict(type='Footprint')], pause=0.0)
    with launches(on_one_machine(write_config(data_root, work_dir, **options), ranks)) as (run,):
        assert run.finish(timeout=600) == 0, run.text()
    seen = []
    for rank in range(ranks):
        lines = [json.loads(line) for line in Path(work_dir / f'footprint{rank}.jsonl').read_text().splitlines()]
        assert [line['epoch'] for line in lines] == list(range(sum(epochs)))
        assert [line['stage'] for line in lines] == np.repeat(np.arange(len(epochs)) + 1, epochs).tolist()
        assert {len(line['private']) for line in lines} == {1 + workers}
        seen.append(lines)
    return seen


def require_flat(lines, settled, growth):
    """After ``settled`` epochs no process holds ``growth`` bytes more than it did then, and no file more."""
    private = np.array([line['private'] for line in lines])
    files = np.array([[len(names) for names in line['open']] for line in lines])
    batches = np.array([line['batches'] for line in lines])
    print('private MiB, rank and workers:', *(private / MIB).round(1).tolist(), sep='\n')
    print('open files, and batches on their way:', *zip(files.tolist(), batches.tolist()), sep='\n')
    assert (private[-1] - private[settled] < growth).all()
    assert (files[settled:] == files[settled]).all(), [line['open'] for line in lines]
    assert batches.max() < 40  # some for each batch that a worker has loaded in advance


@pytest.mark.slow
@pytest.mark.parametrize('persistent', [True, False])
def test_memory_and_files_stay_the_same_for_20_epochs_of_5_stages(persistent, tiny_data, tmp_path):
    for lines in run_for_long(tiny_data, tmp_path, [4] * 5, 2, 2, persistent):
        require_flat(lines, settled=7, growth=2 * MIB)


def test_memory_and_files_stay_the_same_over_stages(tiny_data, tmp_path):
    (lines,) = run_for_long(tiny_data, tmp_path, [2, 2, 2], 1, 1, True)
    require_flat(lines, settled=2, growth=3 * MIB)


def train_with(data_root, work_dir, hook, **options):
    """Trains for three epochs of six iterations each, as a run that was resumed with a long history of the loss."""
    interval = {'default_hooks.checkpoint.iter_interval': None}
    run = build(data_root, work_dir, stages=[dict(NATURAL, epochs=3)], hooks=[hook], **options, **interval)
    run.message_hub.log_scalars['train/loss'] = HistoryBuffer(np.arange(1000.0), np.ones(1000))
    with small_run.plain_config_text():
        run.train()
    assert (run.iter, len(run.train_dataloader)) == (18, 6)
    return run.message_hub.log_scalars


def test_histories_of_logged_scalars_are_bounded(tiny_data, tmp_path):
    scalars = train_with(tiny_data, tmp_path, dict(type='LogHistoryHook', max_length=3))
    assert {'train/lr', 'train/time', 'train/loss'} <= scalars.keys()
    for name, history in scalars.items():
        if name.startswith('train/') and name != 'train/stage':
            assert len(history.data[0]) == 10, name  # the window of log_processor, which is longer than 3


def test_longer_windows_get_what_they_need(tiny_data, tmp_path):
    custom = [
        dict(data_src='loss', method_name='mean', window_size=window, log_name=f'loss_{window}')
        for window in ('epoch', 17)
    ]
    custom.append(dict(data_src='lr', method_name='max', window_size='global'))
    options = {'log_processor': dict(window_size=4, custom_cfg=custom)}
    scalars = train_with(tiny_data, tmp_path, dict(type='LogHistoryHook', max_length=2), **options)
    assert len(scalars['train/loss'].data[0]) == 17
    assert len(scalars['train/lr'].data[0]) == 18


def test_a_bad_length_names_its_key():
    with pytest.raises(ValueError, match=r'default_hooks\.log_history\.max_length must be at least 1, got 0'):
        LogHistoryHook(max_length=0)
