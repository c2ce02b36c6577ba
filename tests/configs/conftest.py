import functools

import mmengine.config.utils
import pytest

import mmoid.registry  # noqa: F401


@pytest.fixture(scope='session', autouse=True)
def read_once():
    """For one base of mmdet mmengine reads all metafiles of mmdet, which takes a second; here once for all configs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine.config.utils, 'load', functools.cache(mmengine.config.utils.load))
        yield
