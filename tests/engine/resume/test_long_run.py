"""Long runs: what ranks and workers hold does not grow with the epochs, nor at the switch of a stage."""

import json

import numpy as np
import pytest
from mmengine.logging import HistoryBuffer

from mmoid.engine.hooks import LogHistoryHook
from tests.engine import small_run
from tests.engine.machines import launches, on_one_machine, write_config
from tests.engine.run_checks import build

MIB = 1 << 20


@pytest.mark.parametrize(
    ('epochs', 'processes', 'persistent', 'settled', 'growth'),
    [
        ([2] * 3, 1, True, 2, 3 * MIB),
        pytest.param([4] * 5, 2, True, 7, 2 * MIB, marks=pytest.mark.slow),
        pytest.param([4] * 5, 2, False, 7, 2 * MIB, marks=pytest.mark.slow),
    ],
)
def test_memory_and_files_stay_the_same_over_stages(
    epochs, processes, persistent, settled, growth, tiny_data, tmp_path
):
    """After ``settled`` epochs no rank and no worker holds ``growth`` bytes more than it did then, and no file more."""
    stages = [dict(small_run.STAGES[k % 2], epochs=n) for k, n in enumerate(epochs)]
    options = dict(stages=stages, num_workers=processes, persistent=persistent, hooks=[dict(type='Footprint')])
    with launches(on_one_machine(write_config(tiny_data, tmp_path, pause=0.0, **options), processes)) as (run,):
        assert run.finish(timeout=600) == 0, run.text()
    for rank in range(processes):
        lines = [json.loads(line) for line in (tmp_path / f'footprint{rank}.jsonl').read_text().splitlines()]
        assert [line['stage'] for line in lines] == np.repeat(np.arange(len(epochs)) + 1, epochs).tolist()
        private, files, batches = (np.array([line[key] for line in lines]) for key in ('private', 'files', 'batches'))
        assert private.shape == (sum(epochs), 1 + processes)
        print('private MiB, rank and workers:', *(private / MIB).round(1).tolist(), sep='\n')
        print('open files, and batches on their way:', *zip(files.tolist(), batches.tolist()), sep='\n')
        assert (private[-1] - private[settled] < growth).all()
        assert (files[settled:] == files[settled]).all()
        assert batches.max() < 40  # some for each batch that a worker has loaded in advance


def test_histories_are_bounded_and_longer_windows_get_what_they_need(tiny_data, tmp_path):
    custom = [
        dict(data_src='loss', method_name='mean', window_size=window, log_name=f'loss_{window}')
        for window in ('epoch', 17)
    ]
    custom.append(dict(data_src='lr', method_name='max', window_size='global'))
    options = dict(log_processor=dict(window_size=4, custom_cfg=custom), stages=[dict(small_run.STAGES[0], epochs=3)])
    run = build(tiny_data, tmp_path, hooks=[dict(type='LogHistoryHook', max_length=2)], **options)
    scalars = run.message_hub.log_scalars
    scalars['train/loss'] = HistoryBuffer(np.arange(1000.0), np.ones(1000))  # as of a resumed run
    run.train()
    lengths = {name: len(history.data[0]) for name, history in scalars.items() if name.startswith('train/')}
    assert (lengths.pop('train/lr'), lengths.pop('train/stage')) == (18, 3)
    assert 'train/loss' in lengths and set(lengths.values()) == {17}


def test_a_bad_length_names_its_key():
    with pytest.raises(ValueError, match=r'default_hooks\.log_history\.max_length must be at least 1, got 0'):
        LogHistoryHook(max_length=0)
