"""Runs that several test files compare with."""

import pytest

from tests.engine import small_run
from tests.engine.machines import launches, on_one_machine, write_config
from tests.engine.run_checks import history, train


@pytest.fixture(scope='module', autouse=True)
def quick():
    """Faster runs: configs are not formatted."""
    with small_run.plain_config_text():
        yield


@pytest.fixture(scope='session')
def whole(tiny_data, tmp_path_factory):
    """Work folder of an uninterrupted run of one process."""
    work_dir = tmp_path_factory.mktemp('whole')
    with small_run.plain_config_text():
        train(tiny_data, work_dir)
    return work_dir


@pytest.fixture(scope='session')
def whole_of_two(tiny_data, tmp_path_factory):
    """Work folder of an uninterrupted run of two processes."""
    work_dir = tmp_path_factory.mktemp('whole-of-two')
    with launches(on_one_machine(write_config(tiny_data, work_dir))) as (run,):
        assert run.finish() == 0, run.text()
    assert [len(history(work_dir, rank)) for rank in (0, 1)] == [44, 44]
    return work_dir
