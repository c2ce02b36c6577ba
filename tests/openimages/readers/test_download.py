"""Downloads over connections that break, from a server that breaks them."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mmoid.openimages.readers.download.http_source import DownloadError
from mmoid.openimages.readers.download.record import describe_state
from mmoid.openimages.readers.download.resumable import download
from tests.openimages.readers.file_server import PATIENCE, Behaviour, serving

ROOT = Path(__file__).parents[3]
CONTENT = np.random.default_rng(0).bytes(3_000_000)
OTHER = np.random.default_rng(1).bytes(3_000_000)
WRONG_MD5 = {'x-goog-hash': 'md5=AAAAAAAAAAAAAAAAAAAAAA=='}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture()
def server():
    with serving(CONTENT) as server:
        yield server


@pytest.fixture()
def path(tmp_path):
    return tmp_path / 'new' / 'boxes.csv'


@pytest.fixture()
def fetch(server, path):
    """Downloads; the waits go to ``fetch.waits`` and take no time."""

    def fetch(url=None, **options):
        return download(url or f'{server.url}/boxes.csv', path, sleep=fetch.waits.append, **{'timeout': 5} | options)

    fetch.waits = []
    return fetch


def names(path):
    return sorted(entry.name for entry in path.parent.iterdir())


def begin(server, fetch, size):
    """Leaves a part of ``size`` bytes, as a run that was given up does."""
    server.script = [Behaviour(cut_after=size), Behaviour(status=503)]
    with pytest.raises(DownloadError, match='run again'):
        fetch(retries=0)
    server.asked.clear()


def test_a_file_arrives_whole_and_its_record_says_how_it_was_compared(server, path, fetch):
    record = fetch()
    assert path.read_bytes() == CONTENT
    assert names(path) == ['boxes.csv', 'boxes.csv.download.json']
    assert (record.total, record.checked_by) == (len(CONTENT), 'md5 of the server')
    assert record.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert server.asked[0].headers['Accept-Encoding'] == 'identity'


@pytest.mark.parametrize('reset', [False, True])
@pytest.mark.parametrize('chunked', [False, True])
def test_cut_at_random_places_it_goes_on_where_it_was(server, path, fetch, reset, chunked):
    cuts = np.random.default_rng([reset, chunked]).integers(1, 300_000, 12)
    server.script = [Behaviour(cut_after=int(cut), reset=reset, chunked=chunked) for cut in cuts]
    fetch(retries=1)
    assert path.read_bytes() == CONTENT
    assert server.starts == sorted(server.starts) and len(set(server.starts)) > 6
    if not reset:  # a reset may overtake bytes that were sent before
        assert server.starts == [0, *np.cumsum(cuts)]
    assert server.asked[-1].headers['If-Range'] == server.asked[1].headers['If-Range']


def test_silence_counts_as_a_cut(server, path, fetch):
    server.script = [Behaviour(stall_after=1_000_000), Behaviour(stall_after=0)]
    fetch(timeout=0.1)
    assert path.read_bytes() == CONTENT
    assert server.starts == [0, 1_000_000, 1_000_000]


def test_a_connection_that_stays_open_is_not_waited_for(server, path, fetch):
    server.script = [Behaviour(hang_on=True)]
    fetch(timeout=PATIENCE)
    assert not server.go_on.is_set()
    assert len(server.asked) == 1
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_again(server, path, fetch):
    server.script = [Behaviour(cut_after=2_000_000), Behaviour(ranges=False)]
    fetch()
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges_that_is_cut_at_the_same_place_is_given_up(server, path, fetch):
    server.script = [Behaviour(ranges=False, cut_after=2_000_000)] * 20
    with pytest.raises(DownloadError, match='cut at byte 2,000,000 of 3,000,000; given up after 3 retries; run again'):
        fetch(retries=3)
    assert fetch.waits == [0.5, 1, 2, 4]
    assert not path.exists()


@pytest.mark.parametrize('if_range', [True, False])
@pytest.mark.parametrize('size', [1_500_000, 3_000_000, 4_000_000])
def test_two_versions_of_a_file_are_never_joined(server, path, fetch, if_range, size):
    other = (OTHER * 2)[:size]
    no_sum = {'x-goog-hash': None}  # it would catch them too, but late
    server.script = [
        Behaviour(headers=no_sum, cut_after=2_000_000),
        Behaviour(headers=no_sum, content=other, if_range=if_range),
        Behaviour(headers=no_sum),
    ]
    fetch()
    assert path.read_bytes() == other


def test_nor_are_versions_of_two_runs_or_two_addresses(server, path, fetch):
    begin(server, fetch, 2_000_000)
    server.content = OTHER
    fetch()
    assert path.read_bytes() == OTHER
    path.unlink()
    begin(server, fetch, 2_000_000)
    fetch(f'{server.url}/other.csv')
    assert server.starts == [0]


def test_without_anything_to_tell_versions_by_a_part_is_not_gone_on_with(server, path, fetch):
    nothing = {'ETag': None}
    server.script = [Behaviour(cut_after=2_000_000, headers=nothing), Behaviour(headers=nothing)]
    fetch()
    assert server.starts == [0, 0]
    assert path.read_bytes() == CONTENT


def test_a_file_that_does_not_agree_is_downloaded_once_more(server, path, fetch):
    server.script = [Behaviour(headers=WRONG_MD5)]
    fetch()
    assert server.starts == [0, 0]
    path.unlink()
    server.asked.clear()
    server.script = [Behaviour(headers=WRONG_MD5)] * 9
    with pytest.raises(DownloadError, match=r'its MD5 is \w+, the server announced 0+; it arrived wrong twice'):
        fetch()
    assert server.starts == [0, 0]
    assert names(path) == []


def test_a_file_that_was_changed_by_its_publisher_is_not_downloaded_twice(server, path, fetch):
    with pytest.raises(DownloadError, match='its SHA-256 is .*, expected 00; the server holds another file now'):
        fetch(sha256='00')
    with pytest.raises(DownloadError, match='has 3,000,000 bytes, expected 7; the server holds another file now'):
        fetch(size=7)
    assert server.starts == [0, 0]
    assert names(path) == []
    checked = fetch(sha256=hashlib.sha256(CONTENT).hexdigest().upper(), md5=hashlib.md5(CONTENT).hexdigest())
    assert checked.checked_by == 'sha256 and md5'


def test_the_sum_of_a_file_that_is_stored_compressed_is_not_that_of_what_is_sent(server, fetch):
    server.script = [Behaviour(headers=WRONG_MD5 | {'x-goog-stored-content-encoding': 'gzip'})]
    assert fetch().checked_by == 'length'


@pytest.mark.parametrize(
    ('behaviour', 'message'),
    [
        (Behaviour(status=404), r'/boxes\.csv: the server answers 404 .*; there is no such file'),
        (Behaviour(status=403), r'answers 403 .*; it is not open to you: check proxy and mirror'),
        (Behaviour(status=204), r'answers 204'),
        (Behaviour(headers={'Content-Encoding': 'gzip'}), r"Content-Encoding 'gzip' though none was asked for"),
        (Behaviour(headers={'Content-Type': 'text/html; charset=utf-8'}), r'a web page arrives instead of the file'),
        (Behaviour(headers={'Content-Length': None, 'x-goog-hash': None}), r'comes without length and checksum'),
        (Behaviour(status=302, headers={'Location': 'ftp://127.0.0.1/x'}), r'cannot be opened \(unknown url type: ftp'),
        (Behaviour(status=302, headers={'Location': 'file:///etc/hostname'}), r'answers 302'),
    ],
)
def test_what_will_not_pass_is_said_at_once(server, path, fetch, behaviour, message):
    server.script = [behaviour]
    with pytest.raises(DownloadError, match=message):
        fetch()
    assert fetch.waits == []
    assert names(path) == []


@pytest.mark.parametrize('url', ['file:///etc/hostname', 'ftp://host/x', '/etc/hostname', 'https:///x'])
def test_only_addresses_of_http_are_opened(fetch, url):
    with pytest.raises(DownloadError, match='is no address to download from; expected one like https://'):
        fetch(url)


def test_what_may_pass_is_tried_again(server, path, fetch):
    server.script = [Behaviour(status=500), Behaviour(status=429, headers={'Retry-After': '7'}), Behaviour(status=416)]
    server.script.insert(2, Behaviour(cut_after=10))
    fetch()
    assert path.read_bytes() == CONTENT
    assert fetch.waits == [1, 7, 0.5, 1]
    assert server.starts == [0, 0, 0, 10, 0]


def test_a_server_that_stays_away_is_given_up(server, path, fetch):
    begin(server, fetch, 1_000_000)
    assert describe_state(path) == '33%'
    server.script = [Behaviour(status=503)] * 9
    with pytest.raises(
        DownloadError, match='answers 503 .*; given up after 2 retries; run again, it goes on at byte 1,0'
    ):
        fetch(retries=2)
    assert describe_state(path) == '33%'
    server.script = []
    server.asked.clear()
    fetch()
    assert server.starts == [1_000_000]


def test_nobody_at_the_address_is_given_up(path):
    with serving() as server:
        url = server.url
    with pytest.raises(DownloadError, match='refused; given up after 2 retries'):
        download(f'{url}/boxes.csv', path, retries=2, sleep=lambda _: None)
    assert names(path) == []


def test_a_file_that_is_there_is_not_asked_for_again(server, path, fetch):
    first = fetch()
    assert fetch() == fetch(sha256=first.sha256) == fetch(f'{server.url}/mirror.csv', md5=first.md5) == first
    assert len(server.asked) == 1
    assert describe_state(path) == 'whole'


def test_a_file_that_came_otherwise_is_taken_over_only_if_it_is_the_same(server, path, fetch):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert describe_state(path) == 'there, unchecked'
    assert fetch(sha256=hashlib.sha256(CONTENT).hexdigest()).checked_by == 'sha256'
    assert not server.asked
    assert fetch(f'{server.url}/mirror.csv').checked_by == 'md5 of the server'
    for wrong in (CONTENT[:-1], OTHER):
        path.write_bytes(wrong)
        with pytest.raises(DownloadError, match=r'boxes\.csv: is there, and is not .*; move it away and run again'):
            fetch()
        assert path.read_bytes() == wrong


def test_a_file_that_was_changed_since_is_compared_again(server, path, fetch):
    first = fetch()
    path.write_bytes(OTHER)
    with pytest.raises(DownloadError, match='is there, and is not'):
        fetch()
    path.write_bytes(CONTENT)
    assert fetch().md5 == first.md5
    assert server.starts == [0, 0, 0]


def test_an_interrupted_download_is_gone_on_with(server, path, fetch):
    def interrupt(what, done, total):
        if done > 1_000_000:
            raise KeyboardInterrupt

    server.script = [Behaviour(stall_after=1_500_000)]
    with pytest.raises(KeyboardInterrupt):
        fetch(progress=interrupt)
    told = []
    fetch(progress=lambda *now: told.append(now))
    assert server.starts[1] > 1_000_000
    assert told[0] == ('boxes.csv', server.starts[1], 3_000_000)
    assert told[-1] == ('boxes.csv', 3_000_000, 3_000_000)
    assert path.read_bytes() == CONTENT


def test_a_damaged_record_costs_the_part_only(server, path, fetch):
    begin(server, fetch, 1_000_000)
    path.with_name('boxes.csv.download.json').write_text('{"url": ')
    fetch()
    assert server.starts == [0]
    assert path.read_bytes() == CONTENT


def test_a_part_that_was_damaged_is_noticed(server, path, fetch):
    begin(server, fetch, 1_000_000)
    with open(path.with_name('boxes.csv.part'), 'r+b') as part:
        part.write(bytes(100))
    fetch()
    assert server.starts == [1_000_000, 0]
    assert path.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_named(server, path):
    path.parent.write_text('in the way')
    with pytest.raises(DownloadError, match=r'new.*: (File exists|Not a directory)'):
        download(server.url, path)
    assert not server.asked


def test_an_empty_file_is_a_file(server, path, fetch):
    server.content = b''
    assert fetch().total == 0
    assert path.read_bytes() == b''


def test_the_proxy_of_the_environment_is_used(server, fetch, monkeypatch):
    monkeypatch.setenv('http_proxy', server.url)
    monkeypatch.delenv('no_proxy', raising=False)
    fetch('http://openimages.invalid/boxes.csv')
    assert server.asked[0].path == 'http://openimages.invalid/boxes.csv'


def start_process(server, path):
    code = (
        'import sys; from mmoid.openimages.readers.download.resumable import download; '
        'download(sys.argv[1], sys.argv[2], progress=lambda *now: print(*now, flush=True), timeout=15)'
    )
    command = [sys.executable, '-c', code, f'{server.url}/boxes.csv', str(path)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_killed_process_is_gone_on_with_by_the_next(server, path, fetch):
    server.script = [Behaviour(stall_after=2_000_000)]
    with start_process(server, path) as process:
        for line in process.stdout:
            if line.startswith('boxes.csv 2000000 '):
                os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert names(path) == ['boxes.csv.download.json', 'boxes.csv.part']
    fetch()
    assert server.starts == [0, 2_000_000]
    assert path.read_bytes() == CONTENT


def test_of_two_processes_one_downloads_and_the_other_finds_the_file(server, path):
    server.script = [Behaviour(stall_after=2_000_000)]
    with start_process(server, path) as first:
        assert server.silent.wait(PATIENCE)
        with start_process(server, path) as second:
            assert second.stdout.readline() == 'boxes.csv (another process downloads it) 0 0\n'
            server.go_on.set()
            assert second.wait(PATIENCE) == first.wait(PATIENCE) == 0
    assert len(server.asked) == 1
    assert path.read_bytes() == CONTENT
    assert names(path) == ['boxes.csv', 'boxes.csv.download.json']


def test_who_waits_for_another_that_fails_downloads_itself(server, path):
    server.script = [Behaviour(status=404, stall=True)]
    url = f'{server.url}/boxes.csv'
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(download, url, path)
        assert server.silent.wait(PATIENCE)
        # Told that it has to wait, it lets the other go on.
        second = pool.submit(download, url, path, progress=lambda *_: server.go_on.set())
        assert second.result(PATIENCE).total == len(CONTENT)
        with pytest.raises(DownloadError, match='404'):
            first.result(PATIENCE)
    assert path.read_bytes() == CONTENT
    assert json.loads(path.with_name('boxes.csv.download.json').read_text())['total'] == len(CONTENT)
