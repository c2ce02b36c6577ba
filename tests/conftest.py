"""Fixtures that several test files share."""

from __future__ import annotations

import os

# Two-process tests share two cores; before torch is imported anywhere.
os.environ.setdefault('OMP_NUM_THREADS', '1')

from pathlib import Path

import pytest

from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.statistics.concurrent_rates import count_concurrence, save_rates
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.synthetic.folder import write_dataset
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
    annotations = root / 'annotations'
    for split in ('train', 'validation'):
        convert(
            root / split,
            boxes=annotations / f'{split}-detection-bbox.csv',
            image_labels=annotations / f'{split}-detection-human-imagelabels.csv',
            classes=annotations / 'classes-description.csv',
            hierarchy=annotations / 'label-hierarchy.json',
            images=root / 'images' / split,
        )
    train = AnnotationStore(root / 'train')
    save_rates(root / 'concurrent_rates.npz', count_concurrence(train).rates, train.label_names)
    return root
