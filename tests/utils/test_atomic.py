"""What a killed process was writing is removed by the next that writes the same, and nothing else is."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from mmoid.openimages.store.arrow_folder import write_folder
from mmoid.utils.atomic import atomic_write
from tests.tool_runs import ROOT

PROGRAM = """
import sys
from tests.utils.test_atomic import write

def pause():
    print('writing', flush=True)
    sys.stdin.read()

write({kind!r}, {path!r}, 'x' * 1000, pause)
"""


def write(kind, path, text='whole', before_the_end=lambda: None):
    with write_folder(path, overwrite=True) if kind == 'folder' else atomic_write(path) as temporary:
        (temporary / 'metadata.json' if kind == 'folder' else temporary).write_text(text)
        before_the_end()


def content(kind, path):
    return (path / 'metadata.json' if kind == 'folder' else path).read_text()


@pytest.fixture(params=['folder', 'file'])
def kind(request):
    return request.param


@pytest.fixture
def writer(kind, tmp_path):
    """A process in the middle of writing ``out.txt``; it ends well when its input does."""
    program = PROGRAM.format(kind=kind, path=str(tmp_path / 'out.txt'))
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process = subprocess.Popen([sys.executable, '-c', program], cwd=ROOT, **pipes)
    assert process.stdout.readline() == b'writing\n'
    yield process
    process.kill()
    process.communicate()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_of_a_killed_process_nothing_is_left_by_the_next(kind, writer, tmp_path):
    write(kind, tmp_path / 'out.txt')
    writer.kill()
    writer.wait()
    left, _ = names(tmp_path)
    assert left.startswith('.') and 'writing' in left
    assert content(kind, tmp_path / 'out.txt') == 'whole', 'what was there is as it was'
    write(kind, tmp_path / 'other.txt')
    assert left in names(tmp_path), 'of another output nothing is known'
    write(kind, tmp_path / 'out.txt')
    assert names(tmp_path) == ['other.txt', 'out.txt']


def test_a_process_that_lives_is_not_disturbed(kind, writer, tmp_path):
    write(kind, tmp_path / 'out.txt')
    assert len(names(tmp_path)) == 2
    writer.communicate()
    assert writer.returncode == 0
    assert names(tmp_path) == ['out.txt']
    assert content(kind, tmp_path / 'out.txt') == 'x' * 1000


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('/dev/full', '/dev/full: is a directory or a device; give the path of a file'),
        ('folder', 'folder: is a directory or a device'),
        ('file/out.txt', 'file/out.txt: .*/file is not a directory; write elsewhere'),
        ('/proc/out.txt', '/proc/out.txt: No such file or directory; free space, or write elsewhere'),
    ],
)
def test_a_path_that_cannot_be_a_file_is_an_error_that_names_it(name, message, tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match=message):
        write('file', tmp_path / name)
    assert Path('/dev/full').is_char_device()


def test_without_locks_nothing_is_removed(kind, writer, tmp_path, monkeypatch):
    def has_none(descriptor, operation):
        raise OSError('no locks available')

    writer.kill()
    writer.wait()
    monkeypatch.setattr(fcntl, 'flock', has_none)
    write(kind, tmp_path / 'out.txt')
    assert len(names(tmp_path)) == 2
