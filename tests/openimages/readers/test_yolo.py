import numpy as np
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.yolo import import_yolo
from mmoid.openimages.statistics.concurrent_rates import count_concurrence
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.official_files import save_image
from tests.tool_runs import tool

YAML = 'path: /somewhere/else\ntrain: images/train\nval: [images/val]\nnc: 3\nnames: {0: fruit, 1: apple, 2: dog}\n'
LABELS = '0 0.5 0.5 0.5 0.4\n1 0.5 0.5 0.5 0.4\n\n2 0.1 0.1 0.2 0.1 0.2 0.3\n'


@pytest.fixture()
def data(tmp_path):
    """The data.yaml of a data set of three images; the last has no labels."""
    save_image(tmp_path / 'images/train/a.jpg', (50, 100), turned=True)
    save_image(tmp_path / 'images/train/x/b.png', (40, 40))
    save_image(tmp_path / 'images/val/c.jpg', (10, 10))
    (tmp_path / 'labels/train').mkdir(parents=True)
    (tmp_path / 'labels/train/a.txt').write_text('\ufeff' + LABELS.replace('\n', '\r\n'))
    (tmp_path / 'data.yaml').write_text(YAML)
    return tmp_path / 'data.yaml'


def imported(data, **options):
    summary = import_yolo(data.parent / 'store', data=data, overwrite=True, **options)
    return AnnotationStore(data.parent / 'store'), summary


def test_a_yolo_data_set_becomes_a_store(data):
    store, summary = imported(data)
    assert store.image_ids() == ['a', 'b'] and store.file_name(1) == 'images/train/x/b.png'
    assert np.array([store.width, store.height]).T.tolist() == [[100, 50], [40, 40]] and store.upright
    assert store.class_names == ('fruit', 'apple', 'dog')
    assert store.box_label.tolist() == [0, 1, 2] and store.box_stop.tolist() == [3, 3]
    np.testing.assert_allclose(store.box, [[0.25, 0.3, 0.75, 0.7]] * 2 + [[0.1, 0.1, 0.2, 0.3]], atol=1e-12)
    assert (store.is_group_of == -1).all() and len(store.image_label) == 0
    assert (store.image_folder / store.file_name(1)).is_file()
    assert (summary.dropped, summary.changed) == ({}, {'images without a label file, taken as without boxes': 1})
    assert list(summary.first.values()) == [str(data.parent / 'labels/train/x/b.txt')]
    assert count_concurrence(store).rates[0, 1] == 1, 'rows with the same box are one object'


@pytest.mark.parametrize('value', ['../images/train', './images/train', 'list.txt', '{}/link/images/train'])
def test_the_folder_of_a_split_may_be_written_in_other_ways(data, tmp_path_factory, value):
    far = tmp_path_factory.mktemp('far')
    if 'link' in value:
        (far / 'link').symlink_to(data.parent)
    else:
        (data.parent / 'images').rename(far / 'images')
        (data.parent / 'images').symlink_to(far / 'images')
    data.write_text(f'train: {value.format(far)}\nnames: [fruit, apple, dog]\n')
    (data.parent / 'list.txt').write_text(f'./images/train/a.jpg\n{data.parent}/images/train/x/b.png\n')
    store, _ = imported(data)
    assert store.image_ids() == ['a', 'b'] and store.num_boxes == 3


def test_a_box_outside_is_cut_and_counted_with_its_line(data):
    (data.parent / 'labels/train/a.txt').write_text('1 0.5 0.5 0.2 0.2\n0 0.0 0.5 0.5 0.5\n')
    store, summary = imported(data)
    assert store.box.tolist()[1] == [0, 0.25, 0.25, 0.75]
    assert summary.first['boxes cut at the edges of the image'] == f'{data.parent}/labels/train/a.txt:2'


def test_a_label_file_without_an_image_is_counted_and_no_label_file_is_an_error(data):
    labels = data.parent / 'labels/train'
    (labels / 'lost.txt').write_text('0 0.5 0.5 0.5 0.5\n')
    _, summary = imported(data)
    assert summary.dropped == {'label files without an image': 1}
    assert summary.first['label files without an image'] == str(labels / 'lost.txt')
    (labels / 'a.txt').unlink()
    with pytest.raises(AnnotationError, match=r'labels/train/a\.txt: no such file; no image has a label file'):
        imported(data)


@pytest.mark.parametrize(
    ('row', 'message'),
    [
        ('3 0.5 0.5 0.5 0.5', r'a\.txt:2: class 3 is not one of the 3 names of data\.yaml'),
        ('0.5 0.5 0.5 0.5 0.5', r'a\.txt:2: class 0\.5 is not one of'),
        ('1 0.5 0.5 0.5', r"a\.txt:2: expected 'class x y width height', got '1 0\.5"),
        ('1 nan 0.5 0.5 0.5', r'a\.txt:2: expected'),
        ('dog 0.5 0.5 0.5 0.5', r'a\.txt:2: expected'),
        ('1 50 25 20 10', r'a\.txt:2: .* is far outside \[0, 1\]'),
    ],
)
def test_an_error_names_the_file_and_the_line(data, row, message):
    (data.parent / 'labels/train/a.txt').write_text(f'0 0.5 0.5 0.5 0.5\n{row}\n')
    with pytest.raises(AnnotationError, match=message):
        imported(data)
    (data.parent / 'labels/train/x').mkdir()
    (data.parent / 'labels/train/x/b.txt').write_text('9\n')
    with pytest.raises(
        AnnotationError, match=rf'data\.yaml: 2 label files are wrong:\n.*{message}.*\n.*b\.txt:1: expected'
    ):
        imported(data)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('names: [a]\nnc: 80\n', r'data\.yaml: nc is 80, but names has 1 names; correct one of them'),
        ('names: 5\n', r'data\.yaml: cannot be read as data\.yaml \(.*names'),
        ('names: [a]\ntrain: [\n', r'data\.yaml: cannot be read as data\.yaml \(.*line 3'),
        ('names: [a]\ntrain: far.txt\n', r"far\.txt:2: '/far/a\.jpg' lies outside .*; set path in data\.yaml"),
        ('names: [a]\n', r"data\.yaml: has no 'train'; it names the image folder"),
        ('names: [a]\ntrain: nowhere\n', r'nowhere: no such folder'),
        ('names: [a, a]\ntrain: images/train\n', r"data\.yaml: class 'a' occurs twice"),
        ('names: [a]\ntrain: /tmp\n', r'/tmp: lies outside .*; set path in data\.yaml'),
        ('names: [a, b, c]\ntrain: images\ntest: [images, images]\n', r"test: '(.*)' and '\1' are the same image"),
    ],
)
def test_a_bad_description_is_an_error(data, text, message):
    data.write_text(text)
    (data.parent / 'far.txt').write_text('images/train/a.jpg\n/far/a.jpg\n')
    with pytest.raises(AnnotationError, match=message):
        imported(data, split='test' if 'test' in text else 'train')


def test_the_tool_reports_in_one_line(data):
    command = ('import_yolo', '--data', data, '--out', data.parent / 's')
    assert 'images without boxes' in tool(*command).stdout
    done = tool(*command, '--split', 'test', check=False)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith('error: ')


def test_key_points_and_texts_for_numbers(data):
    data.write_text(YAML.replace('nc: 3', 'nc: "3"\nkpt_shape: [2, 3]').replace('{0: fruit', '{"0": 7'))
    (data.parent / 'labels/train/a.txt').write_text('1 0.5 0.5 0.2 0.2 0.9 0.9 2 0.8 0.8 1\n')
    store, _ = imported(data)
    np.testing.assert_allclose(store.box, [[0.4, 0.4, 0.6, 0.6]])
    assert store.class_names == ('7', 'apple', 'dog')


def test_the_last_folder_of_the_name_images_has_its_labels_beside_it(data):
    (data.parent / 'images/train/x').rename(data.parent / 'images/train/images')
    (data.parent / 'images/train/labels').mkdir()
    (data.parent / 'images/train/labels/b.txt').write_text('1 0.5 0.5 0.2 0.2\n')
    assert imported(data)[0].box_stop.tolist() == [3, 4]


def test_boxes_of_dropped_images_are_counted_and_hidden_files_ignored(data):
    (data.parent / 'labels/train/._a.txt').write_text('a file of macOS')
    (data.parent / 'images/train/a.jpg').write_bytes(b'')
    (data.parent / 'labels/train/x').mkdir()
    (data.parent / 'labels/train/x/b.txt').write_text('1 0.5 0.5 0.2 0.2\n')
    store, summary = imported(data, missing_images='drop')
    assert store.num_boxes == 1 and summary.box_rows == 4
    assert summary.dropped == {'images that cannot be read': 1, 'boxes of images that cannot be read': 3}
