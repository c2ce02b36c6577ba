"""Checkpoints of mmengine are read with ``weights_only=True``, and nothing else is let in with them."""

import os
import sys
import time
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub

from mmoid.engine.launch import build_runner
from mmoid.engine.resume.checkpoint_hook import allow_checkpoint_globals, try_load
from tests.engine import small_run
from tests.openimages.readers.file_server import serving
from tests.tool_runs import run

TOOLS = Path(mmdet.__file__).parent / '.mim' / 'tools'


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_the_log_history_of_a_checkpoint_is_read(tmp_path):
    hub = MessageHub.get_instance('checkpoint_globals')
    for value in (1.0, np.float64(2.0), torch.tensor(3.0)):
        hub.update_scalar('train/loss', value)
    hub.update_info('step', np.int64(7))
    torch.save(dict(message_hub=hub.state_dict()), tmp_path / 'epoch_1.pth')
    read = try_load(tmp_path / 'epoch_1.pth')['message_hub']
    assert read['log_scalars']['train/loss'].mean() == 2.0
    assert read['runtime_info']['step'] == 7


@pytest.mark.parametrize('attack', [Attack(getattr, np.ndarray, 'tofile'), Attack(getattr, str, 'mro')])
def test_what_does_not_belong_in_a_checkpoint_is_refused(tmp_path, attack):
    torch.save(dict(state_dict=attack), tmp_path / 'foreign.pth')
    allow_checkpoint_globals()
    with pytest.raises(Exception, match='(?i)weights only|only statistics'):
        torch.load(tmp_path / 'foreign.pth', weights_only=True)  # mmengine's loader allows getattr


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'<html>404</html>', r'model\.pth: cannot be read as a checkpoint \('),
        (dict(state_dict=Attack(os.system, 'true')), r'model\.pth: cannot be read .*Weights only'),
        ([1], r'model\.pth: holds a list; expected a checkpoint'),
    ],
)
def test_a_file_that_is_no_checkpoint_is_one_error(tmp_path, content, message):
    path = tmp_path / 'model.pth'
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=message) as caught:
        try_load(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_checkpoint_of_a_url_is_not_unpickled(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', raising=False)
    torch.save(dict(state_dict=dict(weight=torch.ones(2))), tmp_path / 'good.pth')
    torch.save(dict(state_dict=Attack(os.mkdir, str(tmp_path / 'attacked'))), tmp_path / 'foreign.pth')
    with serving(files={f'/{path.name}': path.read_bytes() for path in tmp_path.glob('*.pth')}) as server:
        assert try_load(f'{server.url}/good.pth')['state_dict']['weight'].sum() == 2
        with pytest.raises(ValueError, match='foreign.pth: cannot be read as a checkpoint'):
            try_load(f'{server.url}/foreign.pth')
    assert not (tmp_path / 'attacked').exists()


def test_a_run_does_not_unpickle_the_weights_that_it_starts_from(tiny_data, tmp_path):
    torch.save(dict(state_dict=Attack(os.mkdir, str(tmp_path / 'attacked'))), tmp_path / 'foreign.pth')
    runner = build_runner(small_run.config(tiny_data, tmp_path, load_from=str(tmp_path / 'foreign.pth')))
    with pytest.raises(Exception, match='(?i)weights_only|weights only'):
        runner.load_or_resume()
    assert not (tmp_path / 'attacked').exists()


def test_mmdets_tools_publish_a_checkpoint_and_plot_a_log(whole, tmp_path):
    def run_tool(name, *arguments):  # as docs/training.md says
        call = 'import mmoid.registry, runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name="__main__")'
        run(sys.executable, '-c', call, TOOLS / name, *arguments)

    run_tool('model_converters/publish_model.py', whole / 'epoch_4.pth', tmp_path / 'model.pth')
    while not (published := [*tmp_path.glob('model-*.pth')]):  # it does not wait for its `mv`
        time.sleep(0.01)
    assert torch.load(published[0], weights_only=True).keys() == {'meta', 'state_dict'}
    (log,) = whole.glob('*/vis_data/scalars.json')
    # The default, dark, is a style of seaborn, which the forks do not use.
    style = 'dark' if 'seaborn' in (TOOLS / 'analysis_tools/analyze_logs.py').read_text() else 'default'
    plot = ('plot_curve', log, '--keys', 'loss', 'stage', '--style', style, '--out', tmp_path / 'curve.png')
    run_tool('analysis_tools/analyze_logs.py', *plot)
    assert (tmp_path / 'curve.png').stat().st_size > 10_000
