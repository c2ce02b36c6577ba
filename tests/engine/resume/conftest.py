"""Fixtures of the tests that resume runs in this process."""

from __future__ import annotations

import pytest

from tests.engine.resume import resume_run
from tests.engine.resume.resume_checks import train


@pytest.fixture(scope='module')
def quick():
    """Faster runs: configs are not formatted."""
    with resume_run.plain_config_text():
        yield


@pytest.fixture(scope='module')
def whole(quick, tiny_data, tmp_path_factory):
    """Work folder of an uninterrupted run."""
    work_dir = tmp_path_factory.mktemp('whole')
    train(tiny_data, work_dir)
    return work_dir
