"""Store folders on full disks, written by two processes, and damaged."""

import json
import re
import shutil

import numpy as np
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.arrow_folder import write_folder
from tests.coco_documents import random_store
from tests.disks import fill, make_read_only, repair
from tests.official_files import write_files
from tests.tool_runs import tool


@pytest.mark.parametrize(('fault', 'reason'), [(fill, 'No space left'), (make_read_only, 'not a writable directory')])
def test_a_disk_that_is_full_or_read_only_is_one_line_and_takes_the_store_later(fault, reason, small_disk, tmp_path):
    files = write_files(tmp_path / 'official')
    fault(small_disk)
    options = [word for key, path in files.items() for word in (f'--{key.removeprefix("image_")}', path)]
    try:
        done = tool('prepare_openimages', *options, '--out', small_disk / 'store', check=False)
        assert done.returncode == 1 and re.fullmatch(rf'error: .*{small_disk}.*{reason}.*\n', done.stderr), done.stderr
    finally:
        repair(small_disk)
    assert not list(small_disk.iterdir())
    convert(small_disk / 'store', **files)


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
    with pytest.raises(AnnotationError, match='mmoid prepare|format is'):
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
