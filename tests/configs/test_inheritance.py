"""Config files say nothing twice, and nothing that nobody reads."""

import inspect
import re

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from tests.configs.recipes import ROOT

FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob('configs/**/*.py'))
# What is read by others than the arguments of Runner: by Runner from the whole config, by tools/test.py --tta.
READ = {*inspect.signature(Runner.__init__).parameters, 'sync_bn', 'custom_imports', 'tta_model', 'tta_pipeline'}
OF_BASE = object()


def own_values(path):
    """What a file itself says, its bases left out; OF_BASE for ``{{_base_.x}}``."""
    text = (ROOT / path).read_text()
    text = re.sub(r'\{\{\s*_base_\.[\w.]+\s*\}\}', '_of_base', text)
    text = re.sub(r'\{\{\s*\$\w+:([^}]*?)\s*\}\}', r'\1', text)
    values = {'_of_base': OF_BASE}
    exec(compile(text, path, 'exec'), values)
    bases = values.pop('_base_', [])
    own = {key: value for key, value in values.items() if not key.startswith('_')}
    return own, [bases] if isinstance(bases, str) else bases


def base_values(path, bases):
    merged = {}
    for base in bases:
        file, _ = Config._get_cfg_path(base, str(ROOT / path))
        merged.update(Config.fromfile(file, import_custom_modules=False).to_dict())
    return merged


def restated(own, base, prefix=''):
    """Dotted keys whose value the base has already."""
    if not isinstance(own, dict) or not isinstance(base, dict) or own.get('_delete_'):
        return [prefix] if own is not OF_BASE and own == base else []
    return [key for k in own if k in base for key in restated(own[k], base[k], f'{prefix}.{k}'.lstrip('.'))]


@pytest.mark.parametrize('path', FILES)
def test_no_file_says_what_its_base_says(path):
    own, bases = own_values(path)
    assert restated(own, base_values(path, bases)) == []


def test_a_copy_is_found():
    base = {'a': {'b': 1, 'c': [1, 2]}, 'd': None}
    assert restated({'a': {'b': 1, 'c': [1]}, 'd': None, 'e': 1}, base) == ['a.b', 'd']
    assert restated({'a': {'_delete_': True, 'b': 1}}, base) == []


@pytest.mark.parametrize('path', FILES)
def test_no_value_is_left_that_nothing_reads(path):
    own, _ = own_values(path)
    text = (ROOT / path).read_text()
    everything = ''.join((ROOT / file).read_text() for file in FILES)
    overridden = set(base_values(path, own_values(path)[1])) - READ
    for name in set(own) - READ - overridden:
        here = len(re.findall(rf'\b{name}\b', text)) > 1
        assert here or f'_base_.{name}' in everything, f'{path}: {name} is not used'
