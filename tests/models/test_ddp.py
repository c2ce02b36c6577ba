"""The loss in DistributedDataParallel: two real processes give the gradient of the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import mmoid

ROOT = Path(__file__).parents[2]
CLASSES, ROWS = 5, 8


class Scorer(nn.Module):
    """A layer and the loss on its outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores = nn.Linear(6, CLASSES + 1)
        self.loss_cls = mmoid.ConcurrentSoftmaxLoss(CLASSES, torch.rand(CLASSES, CLASSES).round(decimals=1))

    def forward(self, features, sets):
        return self.loss_cls(self.scores(features), sets)


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(ROWS, 6, generator=generator), torch.rand(ROWS, CLASSES, generator=generator) < 0.4


def train_a_rank(folder: Path) -> None:
    torch.distributed.init_process_group('gloo')
    rank = torch.distributed.get_rank()
    model = Scorer()
    if rank:
        model.loss_cls.set_rates(torch.zeros(CLASSES + 1, CLASSES + 1))
    model = nn.parallel.DistributedDataParallel(model)  # copies the buffers of rank 0
    features, sets = batch()
    model(features[rank::2], sets[rank::2]).backward()
    torch.save(model.module.scores.weight.grad, folder / f'{rank}.pt')
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_gradient_of_the_whole_batch(tmp_path):
    environment = {**os.environ, 'MASTER_ADDR': '127.0.0.1', 'WORLD_SIZE': '2', 'PYTHONPATH': str(ROOT)}
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m', 'tests.models.test_ddp']
    command = [sys.executable, *launch, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    model = Scorer()
    model(*batch()).backward()
    for rank in (0, 1):
        gradient = torch.load(tmp_path / f'{rank}.pt', weights_only=True)
        assert torch.allclose(gradient, model.scores.weight.grad, rtol=1e-5, atol=1e-7)


if __name__ == '__main__':
    train_a_rank(Path(sys.argv[1]))
