"""Pre-trained weights by every kind of name: from the cache, from a server, and what is said where there is neither."""

import hashlib
import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from mmoid.engine.pretrained import PretrainedError, fetch_pretrained, named_weights, resolve
from tests.openimages.readers.file_server import serving

ROOT = Path(__file__).parents[2]
CACHED = {
    'torchvision://resnet18': 'hub/checkpoints/resnet18-f37072fd.pth',
    'open-mmlab://resnet50_v1c': 'hub/checkpoints/resnet50_v1c-2cccc1ad.pth',
    'open-mmlab://detectron2/resnet50_caffe': 'hub/checkpoints/resnet50_msra-5891d200.pth',
    'open-mmlab://resnet50_caffe': 'hub/checkpoints/resnet50_caffe-788b5fa3.pth',  # an old name
}


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """An empty cache, and a proxy that is not there before every other machine."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'mmengine'))
    for scheme in ('http', 'https'):
        monkeypatch.setenv(f'{scheme}_proxy', 'http://127.0.0.1:9')
    monkeypatch.setenv('no_proxy', '127.0.0.1')


def resnet(checkpoint=None, depth=18):
    init = checkpoint and dict(type='Pretrained', checkpoint=str(checkpoint))
    return dict(type='mmdet.ResNet', depth=depth, base_channels=8, init_cfg=init)


def config(checkpoint, **kwargs):
    return Config(dict(model=dict(backbone=resnet(checkpoint)), **kwargs))


def weights(seed):
    torch.manual_seed(seed)
    return MODELS.build(resnet()).state_dict()


def file_of(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def initialised(checkpoint):
    backbone = MODELS.build(resnet(checkpoint))
    backbone.init_weights()
    return backbone.conv1.weight


@pytest.mark.parametrize('kind', ['path', 'torchvision', 'open-mmlab'])
def test_weights_that_are_here_are_used_without_a_network(kind, tmp_path):
    name = {'path': str(tmp_path / 'mine.pth'), 'torchvision': 'torchvision://resnet18',
            'open-mmlab': 'open-mmlab://resnet50_v1c'}[kind]  # fmt: skip
    path = Path(name) if kind == 'path' else tmp_path / 'cache' / CACHED[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    state = weights(1)
    path.write_bytes(file_of(state))
    fetch_pretrained(config(name))
    torch.manual_seed(2)
    assert torch.equal(initialised(name), state['conv1.weight'])


@pytest.mark.parametrize('name', CACHED)
def test_without_a_network_it_says_what_to_get_and_where_to_put_it(name, tmp_path):
    with pytest.raises(PretrainedError) as told:
        fetch_pretrained(config(name))
    lines = str(told.value).splitlines()
    assert lines[0].startswith(f'model.backbone.init_cfg.checkpoint = {name} could not be downloaded (')
    url, path = lines[1].strip(), tmp_path / 'cache' / CACHED[name]
    assert url.startswith('https://') and url.endswith(path.name)
    assert lines[2:] == [
        f'  and put it here:  {path}',
        '  or anywhere:      --cfg-options model.backbone.init_cfg.checkpoint=PATH',
        '  without them:     model.backbone.init_cfg=None',
    ]
    path.write_bytes(file_of(weights(1)))  # the folder is there
    fetch_pretrained(config(name))
    fetch_pretrained(config(path))


def test_a_download_is_kept_and_checked_by_the_hash_in_its_name(tmp_path):
    content = file_of(weights(3))
    good = f'resnet-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    with serving(content) as server:
        for _ in range(2):
            fetch_pretrained(config(f'{server.url}/{good}'))
        assert len(server.asked) == 1
        assert torch.equal(initialised(f'{server.url}/{good}'), weights(3)['conv1.weight'])
        with pytest.raises(PretrainedError, match='invalid hash value'):
            fetch_pretrained(config(f'{server.url}/resnet-01234567.pth'))
    assert [path.name for path in (tmp_path / 'cache/hub/checkpoints').glob('*.pth')] == [good]


def test_of_several_at_once_one_downloads(tmp_path):
    with serving(file_of(weights(3))) as server, ThreadPoolExecutor(4) as pool:  # locks of files, as of processes
        list(pool.map(fetch_pretrained, [config(f'{server.url}/w.pth')] * 4))
        assert len(server.asked) == 1


def test_every_checkpoint_of_a_config_is_named_by_its_key():
    cfg = Config(
        dict(
            model=dict(
                init_cfg=dict(type='Pretrained', checkpoint='whole.pth'),
                backbone=dict(init_cfg=[dict(type='Kaiming'), dict(type='Pretrained', checkpoint='b.pth')]),
                neck=[dict(init_cfg=None), dict(init_cfg=dict(type='Xavier'))],
            ),
            load_from='start.pth',
        )
    )
    assert dict(named_weights(cfg)) == {
        'model.init_cfg.checkpoint': 'whole.pth',
        'model.backbone.init_cfg.1.checkpoint': 'b.pth',
        'load_from': 'start.pth',
    }
    assert resolve('load_from', 's3://bucket/start.pth') is None, 'left to mmengine'


@pytest.mark.parametrize(
    ('name', 'told'),
    [
        ('torchvision://resnet5O', 'torchvision knows no model .resnet5O.; near it: resnet50'),
        ('open-mmlab://nothing_of_the_kind', 'open-mmlab knows no model'),
        ('nowhere/mine.pth', r'no such file \(/.*nowhere/mine.pth\)'),
    ],
)
def test_a_name_that_leads_nowhere_is_told_with_its_key(name, told):
    with pytest.raises(PretrainedError, match=f'model.backbone.init_cfg.checkpoint = {name}: {told}'):
        fetch_pretrained(config(name))


def test_a_training_without_its_weights_ends_before_it_opens_the_data(tmp_path):
    text = (
        "_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'\n"
        "train_dataloader = dict(dataset=dict(ann_file='not/there/either.json'))\n"
    )
    (tmp_path / 'mine.py').write_text(text)
    done = subprocess.run(
        [sys.executable, 'tools/train.py', tmp_path / 'mine.py', '--work-dir', tmp_path], cwd=ROOT, text=True,
        capture_output=True, env={**os.environ},
    )  # fmt: skip
    assert done.returncode == 1
    assert 'error: model.backbone.init_cfg.checkpoint = torchvision://resnet50 could not be' in done.stderr
    assert 'Traceback' not in done.stderr and 'either.json' not in done.stderr


@pytest.mark.skipif(find_spec('torchvision') is not None, reason='the way without torchvision')
def test_torchvision_names_need_no_torchvision():
    assert resolve('key', 'torchvision://resnet50').url.startswith('https://download.pytorch.org/models/resnet50-')
