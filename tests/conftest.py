import os
import subprocess

# Two-process tests share two cores; before torch is imported anywhere.
os.environ.setdefault('OMP_NUM_THREADS', '1')

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmoid.synthetic.folder import write_dataset, write_stores
from mmoid.synthetic.world import WorldConfig

LONGEST_FIRST = ('tests/tools', 'tests/engine', 'tests/evaluation')

TINY = WorldConfig(num_train=48, num_validation=12, image_size=96, num_classes=12, imbalance=10.0)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start many processes go first: at the end one worker would be alone with them."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST_FIRST))


@pytest.fixture(scope='session')
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data root of 48 + 12 generated images: train, validation, concurrent_rates.npz."""
    root = tmp_path_factory.mktemp('data') / 'tiny'
    write_dataset(root, TINY)
    write_stores(root)
    return root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'none', folder], capture_output=True).returncode != 0:
        pytest.skip('needs the right to mount a file system')
    yield folder
    subprocess.run(['umount', '-l', folder], check=True)
