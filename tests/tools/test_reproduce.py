from dataclasses import asdict, replace
from pathlib import Path

import pytest


@pytest.mark.parametrize('best', [0.005, 0.02, 0.16])
def test_learning_rates_are_tried_until_the_best_is_not_at_an_end(tmp_path, monkeypatch, best):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / 'tools')
    from reproduce import LR_SEED, key_of, rates_to_try, with_chosen_lr, write_json
    from reproduction.methods import STOCK

    file, cells = tmp_path / 'rates.json', {}
    assert with_chosen_lr(STOCK, file) == STOCK
    while rates := rates_to_try(STOCK, file):
        for lr in rates:
            method = replace(STOCK, lr=lr)
            reading = {'ancestors, NMS': {'mAP': 1 - abs(lr - best)}}
            cells[key_of(method, LR_SEED)] = dict(method=asdict(method), results={'softmax': reading})
        write_json(file, cells)
    tried = sorted(cell['method']['lr'] for cell in cells.values())
    assert tried[0] < best < tried[-1] and len(tried) <= 6
    assert with_chosen_lr(STOCK, file).lr == best
