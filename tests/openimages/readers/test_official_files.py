"""The table of official files, and the tool that downloads them."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.readers.csv_files import read_classes
from mmoid.openimages.readers.download.http_source import DownloadError
from mmoid.openimages.readers.download.official_files import (
    CONVERTED_KINDS,
    KINDS,
    OFFICIAL_FILES,
    RELEASES,
    SPLITS,
    prepare_arguments,
    select_files,
    splits_of,
)
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.official_files import LABEL_NAMES, write_files
from tests.openimages.readers.file_server import serving
from tests.shared_data import open_images
from tools.misc.download_openimages import require_space

ROOT = Path(__file__).parents[3]


def run_tool(tmp_path, *options):
    return subprocess.run(
        [sys.executable, ROOT / 'tools/misc/download_openimages.py', '--out', 'annotations', *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, 'no_proxy': '127.0.0.1'},
    )


@pytest.mark.parametrize('release', RELEASES)
def test_every_release_has_what_a_store_is_made_of(release):
    for split in splits_of(release):
        rows = select_files(release, [split], CONVERTED_KINDS)
        assert [row.kind for row in rows] == list(CONVERTED_KINDS)
        assert [row.split for row in rows] == [None, None, split, split]
    rows = select_files(release, splits_of(release), KINDS)
    assert rows == [row for row in OFFICIAL_FILES if row.release == release]
    assert len({row.name for row in rows}) == len(rows)


def test_rows_are_well_formed():
    address_of = {row.name: row.url for row in OFFICIAL_FILES}
    for row in OFFICIAL_FILES:
        assert re.fullmatch(r'https://storage\.googleapis\.com/openimages/[\w./-]+\.(csv|json)', row.url)
        assert address_of[row.name] == row.url  # releases can share a folder
        assert row.split in (None, *SPLITS) and row.kind in KINDS
        assert row.split is None or row.url.rpartition('/')[2].find(row.split) >= 0
        assert row.sha256 is None or (re.fullmatch('[0-9a-f]{64}', row.sha256) and row.num_bytes)
        assert row.exact_bytes == (row.num_bytes if row.sha256 else None)


def test_a_mirror_has_the_same_paths():
    row = OFFICIAL_FILES[0]
    assert row.url_at(None) == row.url
    assert row.url_at('http://here/oi/') == 'http://here/oi/v5/class-descriptions-boxable.csv'


@pytest.mark.parametrize(
    ('release', 'splits', 'kinds', 'message'),
    [
        ('challenge-2019', ['test'], KINDS, "challenge-2019 has no split 'test'; it has train, validation"),
        ('challenge-2018', ['validation'], KINDS, "challenge-2018 has no split 'validation'; it has train"),
        ('v7', ['train'], ['masks'], "v7 has no kind 'masks'; it has classes, hierarchy, boxes, labels, images"),
        ('v9', ['train'], KINDS, "release 'v9' is not one of v7, challenge-2019, challenge-2018"),
    ],
)
def test_what_there_is_not_is_told(release, splits, kinds, message):
    with pytest.raises(AnnotationError, match=message):
        select_files(release, splits, kinds)


@pytest.mark.parametrize(
    ('release', 'classes', 'hierarchy'),
    [
        ('v7', 'class-descriptions-boxable', 'bbox_labels_600_hierarchy'),
        ('challenge-2018', 'challenge-class-descriptions-500', 'bbox_labels_500_hierarchy'),
    ],
)
def test_the_real_classes_are_in_the_real_hierarchy_and_as_large_as_the_table_says(release, classes, hierarchy):
    class_file = open_images(f'classes/{classes}.csv')
    tree_file = open_images(f'hierarchy/{hierarchy}.json')
    ClassHierarchy.from_json(tree_file, read_classes(class_file).label_names)
    for path, row in zip((class_file, tree_file), select_files(release, [], KINDS)):
        content = Path(path).read_bytes()
        assert len(content) == pytest.approx(row.num_bytes, abs=500)
        assert row.sha256 in (None, hashlib.sha256(content).hexdigest())


def test_a_dry_run_asks_nobody_and_makes_nothing(tmp_path):
    done = run_tool(tmp_path, '--release', 'v7', '--mirror', 'http://nowhere.invalid', '--dry-run', '--kinds', *KINDS)
    assert done.returncode == 0, done.stderr
    for row in select_files('v7', SPLITS, KINDS):
        line = next(line for line in done.stdout.splitlines() if f' {row.name} ' in line)
        assert ' no ' in line and row.url_at('http://nowhere.invalid') in line
    assert 'not counting 3 of unknown size' in done.stdout
    assert not list(tmp_path.iterdir())


def test_files_come_resume_and_are_ready_to_prepare(tmp_path):
    given = write_files(tmp_path / 'official')
    kinds = {'boxes': 'boxes', 'labels': 'image_labels', 'classes': 'classes', 'hierarchy': 'hierarchy'}
    served = {
        row.url_at(''): Path(given[kinds[row.kind]]).read_bytes()
        for row in select_files('v7', ['train', 'validation'], CONVERTED_KINDS)
    }
    options = ('--release', 'v7', '--splits', 'validation', 'train')
    with serving(files=served) as server:
        first = run_tool(tmp_path, *options, '--mirror', server.url)
        assert first.returncode == 0, first.stderr
        assert len(server.asked) == 6
        again = run_tool(tmp_path, *options, '--mirror', server.url)
        assert len(server.asked) == 6
    assert again.stdout == first.stdout
    summary, *commands = first.stdout.splitlines()
    assert summary == 'annotations: v7 is there, 6 files compared by md5 of the server'
    dry = run_tool(tmp_path, *options, '--dry-run').stdout
    assert dry.count(' whole ') == 6

    assert [shlex.split(command)[3] for command in commands] == ['data/openimages/validation', 'data/openimages/train']
    shutil.copytree(tmp_path / 'official' / 'images', tmp_path / 'images' / 'train')
    python, tool, *arguments = shlex.split(commands[1])
    assert python == 'python'
    subprocess.run([sys.executable, ROOT / tool, *arguments], cwd=tmp_path, check=True, capture_output=True)
    assert AnnotationStore(tmp_path / 'data/openimages/train').label_names == tuple(LABEL_NAMES)


def test_a_mirror_that_holds_other_files_is_told_in_one_line(tmp_path):
    rows = select_files('challenge-2019', ['train'], CONVERTED_KINDS)
    with serving(files={rows[0].url_at(''): b'/m/a,A\n'}) as server:
        done = run_tool(tmp_path, '--mirror', server.url)
        assert done.returncode == 1
        assert 'classes-description-500.csv: has 7 bytes, expected 9,237; the server holds another' in done.stderr
        done = run_tool(tmp_path, '--mirror', server.url, '--kinds', 'hierarchy')
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and lines[0].endswith('check the address, or give another mirror')
    assert 'Traceback' not in done.stderr
    assert done.stdout == ''


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(tmp_path, monkeypatch):
    rows = select_files('challenge-2019', ['validation'], CONVERTED_KINDS)
    missing = sum(row.num_bytes for row in rows)
    (tmp_path / f'{rows[2].name}.part').write_bytes(bytes(1000))
    for free, is_enough in ((missing - 1000, True), (missing - 1001, False)):
        monkeypatch.setattr(shutil, 'disk_usage', lambda _, free=free: SimpleNamespace(free=free))
        if is_enough:
            require_space(rows, tmp_path)
            require_space(rows[:2], tmp_path / 'not' / 'yet' / 'there')
        else:
            with pytest.raises(DownloadError, match=f'{missing - 1000:,} bytes are needed, {free:,} are free'):
                require_space(rows, tmp_path)


def test_a_split_is_ready_once_all_its_files_are_there(tmp_path):
    assert prepare_arguments('challenge-2019', 'train', tmp_path) is None
    for row in select_files('challenge-2019', ['train'], CONVERTED_KINDS):
        (tmp_path / row.name).touch()
    arguments = prepare_arguments('challenge-2019', 'train', tmp_path)
    assert arguments is not None and arguments[::2] == ['--classes', '--hierarchy', '--boxes', '--labels']
    assert prepare_arguments('challenge-2019', 'validation', tmp_path) is None
