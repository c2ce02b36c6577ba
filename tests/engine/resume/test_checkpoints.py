"""Checkpoints of mmengine are read with ``weights_only=True``, and nothing else is let in with them."""

import os

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub

from tests.checkpoints import read_checkpoint


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
    read = read_checkpoint(tmp_path / 'epoch_1.pth')['message_hub']
    assert read['log_scalars']['train/loss'].mean() == 2.0
    assert read['runtime_info']['step'] == 7


@pytest.mark.parametrize(
    'attack', [Attack(os.system, 'true'), Attack(getattr, np.ndarray, 'tofile'), Attack(getattr, str, 'mro')]
)
def test_what_does_not_belong_in_a_checkpoint_is_refused(tmp_path, attack):
    torch.save(dict(state_dict=attack), tmp_path / 'foreign.pth')
    with pytest.raises(Exception, match='(?i)weights_only|weights only|only statistics'):
        read_checkpoint(tmp_path / 'foreign.pth')
