"""The table of official files, and the tool that downloads them."""

import hashlib
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmoid.openimages.readers import official_files
from mmoid.openimages.readers.official_files import CONVERTED_KINDS, KINDS, SPLITS, download, part_path, select_files
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.official_files import LABEL_NAMES, write_files
from tests.openimages.readers.file_server import serving
from tests.real_stores import open_images
from tests.tool_runs import tool
from tools.misc.download_openimages import require_space

CONTENT = np.random.default_rng(0).bytes(100_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setattr(official_files.time, 'sleep', lambda seconds: None)
    with serving(CONTENT) as server:
        yield server


def run_tool(out, *options, check=True):
    return tool('download_openimages', '--out', out, *options, check=check, no_proxy='127.0.0.1')


def test_the_table_is_well_formed_and_every_release_has_the_files_of_a_store():
    path_of = {file.name: file.path for file in official_files.OFFICIAL_FILES}
    for file in official_files.OFFICIAL_FILES:
        assert re.fullmatch(r'[\w./-]+\.(csv|json)', file.path) and path_of[file.name] == file.path
        assert file.kind in KINDS and (file.split is None or (file.split in SPLITS and file.split in file.name))
        assert file.sha256 is None or (re.fullmatch('[0-9a-f]{64}', file.sha256) and file.num_bytes)
    known = select_files('challenge-2019', ['train', 'validation'], CONVERTED_KINDS)
    assert len(known) == 6 and all(file.sha256 for file in known)
    assert (
        official_files.OFFICIAL_FILES[0].url()
        == 'https://storage.googleapis.com/openimages/v5/class-descriptions-boxable.csv'
    )
    for release in official_files.RELEASES:
        for split in official_files.splits_of(release):
            files = select_files(release, [split], CONVERTED_KINDS)
            assert [file.kind for file in files] == list(CONVERTED_KINDS)
            assert [file.split for file in files] == [None, None, split, split]
    with pytest.raises(ValueError, match="challenge-2019 has no split 'test'; it has train, validation"):
        select_files('challenge-2019', ['test'], KINDS)


@pytest.mark.parametrize(
    ('release', 'classes', 'hierarchy'),
    [
        ('v7', 'class-descriptions-boxable', 'bbox_labels_600_hierarchy'),
        ('challenge-2018', 'challenge-class-descriptions-500', 'bbox_labels_500_hierarchy'),
    ],
)
def test_real_files_have_the_size_and_checksum_of_the_table(release, classes, hierarchy):
    paths = open_images(f'classes/{classes}.csv'), open_images(f'hierarchy/{hierarchy}.json')
    for path, file in zip(paths, select_files(release, [], KINDS)):
        content = path.read_bytes()
        assert len(content) == pytest.approx(file.num_bytes, abs=500)
        assert file.sha256 in (None, hashlib.sha256(content).hexdigest())


def test_a_cut_download_resumes_in_the_same_run_and_in_the_next(server, tmp_path):
    part_path(tmp_path / 'f').write_bytes(CONTENT[:1000])
    server.cuts = [20_000, 30_000]
    assert download(server.url, tmp_path / 'f', SHA256) == 'SHA-256'
    assert [start for _, start in server.asked] == [1000, 21_000, 51_000]
    assert (tmp_path / 'f').read_bytes() == CONTENT and not part_path(tmp_path / 'f').exists()
    assert download(server.url, tmp_path / 'f', SHA256) == 'SHA-256'
    assert len(server.asked) == 3  # a complete file is not downloaded again


def test_a_server_that_sends_nothing_is_given_up_and_the_part_kept(server, tmp_path):
    server.cuts = [500] + [0] * 20
    with pytest.raises(OSError, match=r'curl fails with status 18; run again to resume at byte 500'):
        download(server.url, tmp_path / 'f')
    assert part_path(tmp_path / 'f').read_bytes() == CONTENT[:500]


def test_a_wrong_checksum_is_an_error_and_removes_the_part(server, tmp_path):
    with pytest.raises(OSError, match=f'arrived damaged, or is another file: its SHA256 is {SHA256}, expected 00'):
        download(server.url, tmp_path / 'f', '00')
    part_path(tmp_path / 'f').write_bytes(b'of another version')
    with pytest.raises(OSError, match='arrived damaged, or is another file: its MD5 is .*, expected '):
        download(server.url, tmp_path / 'f')
    assert not list(tmp_path.iterdir())
    (tmp_path / 'f').write_bytes(b'mine')
    with pytest.raises(OSError, match='f: is another file; move it away'):
        download(server.url, tmp_path / 'f', SHA256)
    assert (tmp_path / 'f').read_bytes() == b'mine'


def test_without_known_sum_the_md5_of_the_server_counts_or_else_the_size(server, tmp_path):
    assert download(server.url, tmp_path / 'a') == 'MD5 of the server'
    server.sends_md5 = False
    assert download(server.url, tmp_path / 'b') == 'size'
    part_path(tmp_path / 'c').write_bytes(CONTENT + b'more')
    with pytest.raises(OSError, match='100,004 bytes arrived, expected 100,000'):
        download(server.url, tmp_path / 'c')


def test_a_dry_run_shows_the_files_and_makes_nothing(tmp_path):
    mirror = 'http://nowhere.invalid'
    done = run_tool(tmp_path / 'out', '--release', 'v7', '--mirror', mirror, '--dry-run', '--kinds', *KINDS)
    for file in select_files('v7', SPLITS, KINDS):
        line = next(line for line in done.stdout.splitlines() if line.startswith(f'{file.name} '))
        assert '0 bytes there' in line and line.endswith(file.url(mirror))
    assert 'and 3 files of unknown size' in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_tool_downloads_once_and_prints_commands_that_work(tmp_path):
    given = write_files(tmp_path / 'official')
    kinds = {'boxes': 'boxes', 'labels': 'image_labels', 'classes': 'classes', 'hierarchy': 'hierarchy'}
    files = select_files('v7', ['train', 'validation'], CONVERTED_KINDS)
    served = {f'/{file.path}': Path(given[kinds[file.kind]]).read_bytes() for file in files}
    out, options = tmp_path / 'annotations', ('--release', 'v7', '--splits', 'validation', 'train')
    with serving(files=served) as server:
        first = run_tool(out, *options, '--mirror', server.url)
        again = run_tool(out, *options, '--mirror', server.url)
        failed = run_tool(out, '--release', 'challenge-2019', '--mirror', server.url, check=False)
        assert sorted(path for path, _ in server.asked) == sorted(served)
    assert failed.returncode == 1 and re.search(r'error: .*csv: curl: .* 404; check the address', failed.stderr)
    summary, *commands = first.stdout.splitlines()
    assert summary == f'{out}: v7 is complete, 6 files verified by MD5 of the server'
    assert again.stdout.splitlines()[1:] == commands
    words = [shlex.split(command) for command in commands]
    assert [line[3] for line in words] == ['data/openimages/validation', 'data/openimages/train']
    store, images = tmp_path / 'store', given['images']
    tool('prepare_openimages', *words[1][2:], '--out', store, '--images', images)
    assert AnnotationStore(store).label_names == tuple(LABEL_NAMES)


def test_a_full_disk_is_reported_before_the_download(tmp_path, monkeypatch):
    files = select_files('challenge-2019', ['validation'], CONVERTED_KINDS)
    part_path(tmp_path / files[2].name).write_bytes(bytes(1000))
    missing = sum(file.num_bytes for file in files) - 1000
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=missing))
    require_space(files, tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=missing - 1))
    with pytest.raises(OSError, match=f'needs {missing:,} bytes, {missing - 1:,} are free'):
        require_space(files, tmp_path)
