"""Which images a command line names, and which of them can be read."""

import os

import pytest
from PIL import Image

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import flat_tree
from mmoid.openimages.predictions.images_to_predict import find_inputs, image_store, skipped_images
from mmoid.openimages.store.summary import Summary

CLASSES = ClassNames(('/m/a', '/m/b'), ('Apple', 'Bean'))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with images of one colour."""
    for name in ('photos/b.jpg', 'photos/a.png', 'photos/more/b.jpg', 'c.JPG'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (40, 30)).save(tmp_path / name)
    (tmp_path / 'photos/notes.md').write_text('none')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find(*inputs, images=None):
    found = find_inputs(inputs, images, Summary())
    return dict(zip(found.ids.to_pylist(), found.file_names.to_pylist())), found


@pytest.mark.parametrize(
    ('inputs', 'expected'),
    [
        (['photos'], {'a': 'a.png', 'b': 'b.jpg', 'more/b': 'more/b.jpg'}),
        (['photos/more', 'c.JPG'], {'b': 'photos/more/b.jpg', 'c': 'c.JPG'}),
        (['photos/**/?.jpg', 'photos/b.jpg'], {'b': 'b.jpg', 'more/b': 'more/b.jpg'}),
        (['photos/b.jpg', 'photos/b.png'], {'b.jpg': 'b.jpg', 'b.png': 'b.png'}),
    ],
)
def test_folders_files_and_globs_give_each_image_once_by_its_shortest_distinct_id(folder, inputs, expected):
    if 'photos/b.png' in inputs:
        (folder / 'photos/b.png').touch()
    found, images = find(*inputs)
    assert found == expected
    assert all((images.folder / name).is_file() for name in found.values())


def test_a_list_gives_ids_in_its_order_with_or_without_a_file(folder):
    (folder / 'ids.txt').write_text('c\nnowhere\na\n')
    (folder / 'sizes.csv').write_text('image_id,width,height\na,40,30\n')
    assert find('ids.txt', images='.')[0] == {'c': 'c.JPG', 'nowhere': None, 'a': 'photos/a.png'}
    assert find('sizes.csv', images='photos')[0] == {'a': 'a.png'}


@pytest.mark.parametrize(
    ('inputs', 'images', 'message'),
    [
        (['nowhere'], None, 'nowhere: no image there'),
        (['photos/*.gif'], None, r'photos/\*.gif: no image there'),
        (['ids.txt'], None, r'ids.txt: a list of ids \(.csv, .csv.gz, .txt\) stands alone, with the folder'),
        (['photos', 'ids.txt'], '.', 'ids.txt: a list of ids'),
        (['photos'], '.', 'photos: a list of ids'),
        (['ids.txt'], 'nowhere', 'nowhere: no such folder'),
    ],
)
def test_inputs_without_images_are_errors(folder, inputs, images, message):
    (folder / 'ids.txt').write_text('c\n')
    with pytest.raises(ValueError, match=message):
        find(*inputs, images=images)


def make(images):
    return image_store('out.store', images, images.key(), lambda: (CLASSES, flat_tree(CLASSES.label_names)))


def test_images_that_cannot_be_read_are_skipped_with_a_reason(folder):
    Image.effect_noise((200, 200), 50).save(folder / 'photos/cut.jpg')
    os.truncate(folder / 'photos/cut.jpg', 9000)
    (folder / 'photos/page.jpg').write_text('<html>not found</html>')
    (folder / 'photos/empty.png').touch()
    Image.new('RGB', (40, 40)).save(folder / 'photos/moving.jpg', format='GIF')  # older OpenCV does not read it
    store = make(find('photos')[1])
    assert store.image_ids() == ['a', 'b', 'more/b']
    assert (store.width.tolist(), store.height.tolist()) == ([40] * 3, [30] * 3)
    assert (store.num_boxes, store.label_names) == (0, CLASSES.label_names)
    reasons = dict(skipped_images(store))
    assert sorted(reasons) == ['cut', 'empty', 'moving', 'page']
    assert f'{folder}/photos/cut.jpg (image file is truncated' in reasons['cut']
    assert all('cannot identify image file' in reasons[name] for name in ('empty', 'moving', 'page'))


def test_a_store_is_made_again_only_when_an_image_has_changed(folder):
    images = find('photos')[1]
    first = make(images).path.stat().st_ino
    assert make(find('photos')[1]).path.stat().st_ino == first
    os.utime('photos/a.png', (1, 1))
    assert make(images).path.stat().st_ino != first


def test_nothing_but_unreadable_images_is_an_error(folder):
    with pytest.raises(AnnotationError, match=r"none of the 1 images can be read, first 'notes.md': .*notes.md \("):
        make(find('photos/notes.md')[1])
