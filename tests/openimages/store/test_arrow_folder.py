"""Store folders on full disks, written by two processes, and damaged."""

import json
import resource
import shutil
from contextlib import contextmanager

import numpy as np
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.arrow_folder import write_folder
from tests.coco_documents import random_store
from tests.official_files import write_files


@contextmanager
def full_disk(size):
    """Files of this process may not grow beyond ``size`` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize('size', [10, 500])
def test_a_full_disk_names_the_store_and_leaves_nothing(tmp_path, size):
    files = write_files(tmp_path / 'official')
    with pytest.raises(OSError, match=r'store: File too large; free space, or write elsewhere'), full_disk(size):
        convert(tmp_path / 'store', **files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['official']


def test_the_second_of_two_conversions_into_one_folder_does_not_replace_the_first(tmp_path):
    with pytest.raises(FileExistsError, match='store: exists already'), write_folder(tmp_path / 'store') as folder:
        (folder / 'metadata.json').write_text('{"by": 2}')
        (tmp_path / 'store').mkdir()
        (tmp_path / 'store' / 'metadata.json').write_text('{"by": 1}')
    assert (tmp_path / 'store' / 'metadata.json').read_text() == '{"by": 1}'


def test_a_replaced_folder_that_a_killed_process_left_is_removed_by_the_next(tmp_path, monkeypatch):
    def write():
        with write_folder(tmp_path / 'store', overwrite=True) as folder:
            (folder / 'metadata.json').write_text('{}')

    write()
    with monkeypatch.context() as killed:
        killed.setattr(shutil, 'rmtree', lambda *_, **__: None)
        write()
    assert len(list(tmp_path.iterdir())) == 2
    write()
    assert [path.name for path in tmp_path.iterdir()] == ['store']


@pytest.mark.parametrize('text', ['[]', 'null', '{"format": 3}', '\xff', '[' * 100_000])
def test_metadata_of_another_program_are_an_error(tmp_path, text):
    (tmp_path / 'metadata.json').write_text(text, encoding='latin-1')
    with pytest.raises(AnnotationError, match='prepare_openimages|format is'):
        AnnotationStore(tmp_path)


@pytest.fixture()
def store(tmp_path):
    return random_store(tmp_path / 'store', np.random.default_rng(0))


def test_a_store_whose_image_lies_outside_its_folder_is_refused(store):
    data = (store.path / 'images.arrow').read_bytes()
    assert data.count(b'train_1/') > 1
    (store.path / 'images.arrow').write_bytes(data.replace(b'train_1/', b'../../a/', 1))
    with pytest.raises(AnnotationError, match=r"image file '\.\./\.\./a/.*' lies outside the image folder"):
        AnnotationStore(store.path).file_name(1)


def test_metadata_without_a_key_are_an_error(store):
    del store.metadata['hierarchy']
    (store.path / 'metadata.json').write_text(json.dumps(store.metadata))
    with pytest.raises(AnnotationError, match=r"metadata\.json: has no 'hierarchy'; make .*store again"):
        AnnotationStore(store.path)
