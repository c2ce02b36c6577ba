"""Running :mod:`tests.engine.small_run` in this process, in pieces, and comparing what came of it."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import Runner
from torch.utils._pytree import tree_flatten

import mmoid.registry  # noqa: F401
from mmoid.engine.resume.checkpoint_hook import try_load
from tests.engine.small_run import Interrupted, config

STATE = ('state_dict', 'optimizer', 'param_schedulers', 'ema_state_dict', 'early_stopping')


def build(data_root, work_dir, **options) -> Runner:
    """The runner, with six iterations in each of four epochs."""
    return Runner.from_cfg(config(data_root, work_dir, **{'batch_size': 8, **options}))


def train(data_root, work_dir, **options) -> Runner:
    """Trains, to the end unless ``end`` says otherwise; returns the runner."""
    run = build(data_root, work_dir, **options)
    finish(run, options.get('end'))
    return run


def finish(run, end) -> None:
    """Trains to the end, or to :class:`Interrupted` if ``end`` is given."""
    with nullcontext() if end is None else pytest.raises(Interrupted):
        run.train()
    if run.train_dataloader._iterator is not None:
        run.train_dataloader._iterator._shutdown_workers()  # as the end of a process does


def train_in_pieces(data_root, work_dir, ends, **options) -> None:
    """Trains up to each of ``ends`` in turn, resumed from where the last piece left off, and then to the end."""
    for piece, end in enumerate([*ends, None]):
        train(data_root, work_dir, resume=piece > 0, end=end, **options)


def iterations(numbers) -> list[dict]:
    """Ends in these iterations."""
    return [dict(at='iteration', number=number) for number in numbers]


def log(run) -> str:
    return Path(run.log_dir, f'{run.timestamp}.log').read_text()


def history(work_dir, rank=0) -> dict[int, dict]:
    """What a rank saw, by iteration; what was done again after a resume must have been done as before."""
    lines: dict[int, dict] = {}
    for text in (Path(work_dir) / f'rank{rank}.jsonl').read_text().splitlines():
        line = json.loads(text)
        if 'iteration' in line:
            assert lines.setdefault(line['iteration'], line) == line
    return lines


def state(checkpoint) -> dict[str, Any]:
    """The parts of a checkpoint that a resumed run uses, with the scores that decide which checkpoint is the best."""
    content = try_load(checkpoint)
    scores = {key: value for key, value in content['message_hub']['runtime_info'].items() if 'best_score' in key}
    return {key: content[key] for key in STATE if key in content} | scores


def assert_same(one, other, ranks=1) -> None:
    """Two runs saw the same and ended the same."""
    for rank in range(ranks):
        assert history(one, rank) == history(other, rank)
    last = max(path.name for path in Path(one).glob('epoch_?.pth'))
    assert_equal(state(one / last), state(other / last))


def assert_equal(one, other) -> None:
    """Equal, tensors bit for bit."""
    (leaves, form), (other_leaves, other_form) = tree_flatten(one), tree_flatten(other)
    assert form == other_form
    for leaf, other_leaf in zip(leaves, other_leaves):
        assert torch.equal(leaf, other_leaf) if isinstance(leaf, torch.Tensor) else leaf == other_leaf
