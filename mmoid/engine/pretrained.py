"""Pre-trained weights: what a config names, where it comes from and where it lies; fetched before anything else is.

mmengine loads them after data set and loaders are there, and ends with ``URLError`` where there is no network.
"""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import mmengine
import torch.hub
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    _get_mmengine_home,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
    load_from_http,
)

TORCHVISION = ('modelzoo://', 'torchvision://')
OPENMMLAB = ('open-mmlab://', 'openmmlab://')
WEB = ('http://', 'https://')
TIMEOUT = 30
"""Seconds without an answer after which there is no network."""


class PretrainedError(FileNotFoundError):
    """Weights that a config names are not there; says how they come to be."""


@dataclass(frozen=True)
class Weights:
    """What a config names as the weights to start from.

    Attributes:
        key: Config key, ``model.backbone.init_cfg.checkpoint``.
        name: As the config has it, ``torchvision://resnet50``.
        url: Where they come from; None for a local file.
        path: Where they lie, or are put when they are downloaded.
    """

    key: str
    name: str
    url: str | None
    path: Path


def fetch_pretrained(cfg: Config) -> None:
    """Sees to it that all weights that a training starts from are on this machine.

    Of the processes of a machine one downloads, the others wait for it.

    Args:
        cfg: A config; every ``init_cfg`` of type ``Pretrained`` in its model counts, and ``load_from``. Schemes that
            mmengine reads in another way (``s3://`` and the like) are left to it.

    Raises:
        PretrainedError: Something is neither there nor to be had; the message says what to put where.
    """
    for key, name in named_weights(cfg):
        weights = resolve(key, name)
        if weights is not None:
            _fetch(weights)


def named_weights(cfg: Config) -> Iterator[tuple[str, str]]:
    """Config key and value of each checkpoint that a training loads before its first step."""
    yield from _in_model(cfg.get('model') or {}, 'model')
    if isinstance(cfg.get('load_from'), str):
        yield 'load_from', cfg.load_from


def resolve(key: str, name: str) -> Weights | None:
    """Where mmengine will look for a checkpoint.

    Args:
        key: Config key to name in errors.
        name: A path, ``http(s)://…``, ``torchvision://…``, ``open-mmlab://…`` or ``mmcls://…``.

    Returns:
        None for a scheme that is none of these.

    Raises:
        PretrainedError: A name that its scheme does not know.
    """
    if name.startswith(TORCHVISION):
        address = _look_up(key, name, torchvision_urls())
    elif name.startswith(OPENMMLAB):
        address = _look_up(key, name, get_external_models(), get_deprecated_model_names())
    elif name.startswith('mmcls://'):
        address = _look_up(key, name, get_mmcls_models())
    elif name.startswith(WEB):
        address = name
    elif '://' in name:
        return None
    else:
        return Weights(key, name, None, Path(name).expanduser())
    if not address.startswith(WEB):  # an entry of one's own in <mmengine's home>/open_mmlab.json
        return Weights(key, name, None, Path(_get_mmengine_home()) / address)
    return Weights(key, name, address, Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(address).path).name)


def torchvision_urls() -> dict[str, str]:
    """Address of each model of ``torchvision://``, without torchvision the classic ones."""
    if find_spec('torchvision') is None:
        return load(str(Path(mmengine.__file__).parent / 'hub' / 'torchvision_0.12.json'))
    return get_torchvision_models()


def serve_torchvision_names() -> None:
    """Makes ``torchvision://`` work without torchvision, which mmengine imports only to ask for addresses.

    Nothing else in a training needs torchvision, and one that does not fit torch breaks mmengine's Runner.
    """
    if find_spec('torchvision') is None:
        CheckpointLoader.register_scheme(TORCHVISION, loader=_load_from_torchvision, force=True)


def _load_from_torchvision(filename: str, map_location: Any = None) -> Any:
    return load_from_http(_look_up('checkpoint', filename, torchvision_urls()), map_location=map_location)


def _in_model(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        if node.get('type') == 'Pretrained' and isinstance(node.get('checkpoint'), str):
            yield f'{key}.checkpoint', node['checkpoint']
        for name, value in node.items():
            yield from _in_model(value, f'{key}.{name}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _in_model(value, f'{key}.{index}')


def _look_up(key: str, name: str, known: Mapping[str, str], renamed: Mapping[str, str] | None = None) -> str:
    scheme, _, model = name.partition('://')
    model = (renamed or {}).get(model, model)
    if model not in known:
        near = get_close_matches(model, known, n=3)
        hint = f'; near it: {", ".join(near)}' if near else ''
        raise PretrainedError(f'{key} = {name}: {scheme} knows no model {model!r}{hint}')
    return known[model]


def _fetch(weights: Weights) -> None:
    if weights.path.is_file():
        return
    if weights.url is None:
        raise PretrainedError(f'{weights.key} = {weights.name}: no such file ({weights.path.absolute()})')
    weights.path.parent.mkdir(parents=True, exist_ok=True)
    with open(weights.path.with_name(f'.{weights.path.name}.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if weights.path.is_file():
            return
        print(f'Downloading {weights.url} to {weights.path}', flush=True)
        digits = torch.hub.HASH_REGEX.search(weights.path.name)  # the file's SHA-256 begins so
        try:
            with _socket_timeout(TIMEOUT):
                torch.hub.download_url_to_file(weights.url, str(weights.path), digits[1] if digits else None)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
            raise PretrainedError(_remedy(weights, error)) from error


def _remedy(weights: Weights, error: Exception) -> str:
    owner = weights.key.removesuffix('.checkpoint')
    without = f'\n  without them:     {owner}=None' if owner.endswith('init_cfg') else ''
    return (
        f'{weights.key} = {weights.name} could not be downloaded ({error}). On a machine with a network get\n'
        f'  {weights.url}\n'
        f'  and put it here:  {weights.path}\n'
        f'  or anywhere:      --cfg-options {weights.key}=PATH{without}'
    )


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
