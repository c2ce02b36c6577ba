"""Data roots for configs, by number of classes."""

import functools

import mmengine.config.utils
import pytest

import mmoid.registry  # noqa: F401
from tests.configs.many_classes import make_root


@pytest.fixture(scope='session', autouse=True)
def read_once():
    """For one base of mmdet mmengine reads all metafiles of mmdet, which takes a second; here once for all configs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine.config.utils, 'load', functools.cache(mmengine.config.utils.load))
        yield


@pytest.fixture(scope='session')
def root_of(tmp_path_factory):
    """A function that makes the data root of a number of classes, once."""
    roots = {}

    def root(num_classes):
        if num_classes not in roots:
            roots[num_classes] = make_root(tmp_path_factory.mktemp('data') / str(num_classes), num_classes)
        return roots[num_classes]

    return root
