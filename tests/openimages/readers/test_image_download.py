"""Images from a local server that stalls, cuts, is busy, sends damaged files and lacks some."""

import argparse
import io

import numpy as np
import pytest
from PIL import Image

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.image_download import Source, download_images
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.openimages.readers.file_server import serving
from tests.tool_runs import tool
from tools.misc.download_images import wanted_ids

IDS = [f'{number:016x}' for number in range(12)]


def jpeg(number):
    stream = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), number, dtype=np.uint8)).save(stream, 'JPEG')
    return stream.getvalue()


FILES = {f'/train/{image_id}.jpg': jpeg(number) for number, image_id in enumerate(IDS)}


@pytest.fixture
def server():
    with serving(files=dict(FILES)) as server:
        yield server
        server.stalled.set()


def run(server, folder, ids=IDS, **options):
    source = Source(f'{server.url}/train', **{'timeout': 0.3, 'pause': 0.01, **options})
    return {one.image_id: one for one in download_images(ids, source, folder, workers=4)}


def assert_complete(folder, ids=IDS):
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        f'{image_id}.jpg': FILES[f'/train/{image_id}.jpg'] for image_id in ids
    }


@pytest.mark.parametrize('sends_md5', [True, False])
def test_every_fault_is_tried_again_until_the_file_is_right(server, tmp_path, sends_md5):
    server.sends_md5 = sends_md5
    for image_id, faults in zip(IDS, (['stall'], ['cut'], ['busy', 'busy'], ['damage'], ['cut', 'stall', 'busy'])):
        server.faults[f'/train/{image_id}.jpg'] = list(faults)
    outcomes = run(server, tmp_path / 'images')
    assert not any(one.problem for one in outcomes.values())
    assert sum(one.num_bytes for one in outcomes.values()) == sum(map(len, FILES.values()))
    assert_complete(tmp_path / 'images')
    assert len(server.asked) == len(IDS) + 8


def test_what_is_there_is_not_asked_for_again(server, tmp_path):
    run(server, tmp_path, IDS[:5])
    (tmp_path / f'{IDS[1]}.jpg').write_bytes(b'')  # a computer without power leaves such files
    (tmp_path / '.writing-1-2').write_bytes(b'half')
    server.asked.clear()
    outcomes = run(server, tmp_path)
    assert sorted(path for path, _ in server.asked) == sorted(f'/train/{name}.jpg' for name in [IDS[1], *IDS[5:]])
    assert outcomes[IDS[0]].num_bytes == 0
    assert_complete(tmp_path)


@pytest.mark.parametrize(
    ('fault', 'reason'),
    [('cut', 'IncompleteRead'), ('stall', 'timed out'), ('busy', 'answered 503'), ('damage', 'the MD5 is wrong')],
)
def test_an_image_that_never_comes_right_is_reported_and_leaves_no_file(server, tmp_path, fault, reason):
    server.faults[f'/train/{IDS[3]}.jpg'] = [fault] * 3
    outcomes = run(server, tmp_path, retries=2)
    assert reason in outcomes[IDS[3]].problem
    assert_complete(tmp_path, [image_id for image_id in IDS if image_id != IDS[3]])


def test_a_missing_image_is_not_tried_again(server, tmp_path):
    del server.files[f'/train/{IDS[0]}.jpg']
    assert run(server, tmp_path)[IDS[0]].problem == 'the server does not have it (404)'
    assert len(server.asked) == len(IDS)


def test_a_server_that_is_not_there_and_an_id_that_is_no_name(server, tmp_path):
    source = Source('http://127.0.0.1:9/train', retries=1, pause=0.01)
    (outcome,) = download_images(['0'], source, tmp_path)
    assert outcome.problem.startswith('ConnectionRefusedError')
    with pytest.raises(ValueError, match=r"'\.\./0' is not an image id"):
        list(download_images(['../0'], source, tmp_path))


def test_ids_of_a_file_in_any_form(tmp_path):
    ids = f'\ufeffImageID,Split\r\ntrain/{IDS[0]}.jpg\r\n"{IDS[1]}",train\n\n{IDS[1]}\n{IDS[2]}.JPG\nnowhere\n'
    (tmp_path / 'ids.txt').write_text(ids, encoding='utf-8')
    assert wanted_ids(argparse.Namespace(ids=tmp_path / 'ids.txt')) == [*IDS[:3], 'nowhere']
    (tmp_path / 'ids.txt').write_bytes(b'\xff\xfe')
    with pytest.raises(AnnotationError, match=r'ids\.txt: cannot be read'):
        wanted_ids(argparse.Namespace(ids=tmp_path / 'ids.txt'))


def test_ids_of_classes_of_a_store_with_a_maximum(tiny_data):
    store = AnnotationStore(tiny_data / 'train')
    label = int(store.class_image_counts().argmax())
    all_ids = {store.image_id(int(i)) for i in store.images_of_class(label)}

    def ids(classes=None, most=None):
        given = dict(ids=None, store=store.path, classes=classes, max_per_class=most, seed=0)
        return wanted_ids(argparse.Namespace(**given))

    three = ids([store.class_names[label]], 3)
    assert len(three) == 3 and set(three) < all_ids
    assert set(ids([store.label_names[label]])) == all_ids
    assert ids() == store.image_ids()
    with pytest.raises(AnnotationError, match="--classes: 'Nothing' is not a class of"):
        ids(['Nothing'])


def test_the_tool_reports_what_is_missing(server, tmp_path):
    (tmp_path / 'ids.txt').write_text(f'{IDS[0]}\nnowhere\n')
    options = ('--mirror', server.url, '--ids', tmp_path / 'ids.txt', '--split', 'train', '--out', tmp_path / 'images')
    done = tool('download_images', *options, check=False)
    assert done.returncode == 1 and '2 images, 1 new' in done.stdout
    assert '1 images are missing, the first is nowhere: the server does not have it (404)' in done.stderr
    report = tmp_path / 'images' / 'missing.csv'
    assert report.read_text().splitlines()[1:] == ['nowhere,the server does not have it (404)']
