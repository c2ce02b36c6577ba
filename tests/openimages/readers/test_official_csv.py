"""Official CSV files -> AnnotationStore, and the errors for bad files."""

import gzip
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.csv_files import read_boxes, read_image_labels, read_image_sizes
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.official_files import BOXES, LABEL_NAMES, SIZES, converted, save_image, write_files
from tests.real_stores import open_images


@pytest.fixture()
def store(tmp_path):
    return converted(tmp_path, write_files(tmp_path / 'official'))[0]


def test_official_files_become_a_store(store):
    assert store.image_ids() == ['b1', 'a0', 'c2', 'd3']
    names = [LABEL_NAMES[i] for i in store.box_label]  # the rows of an image together, in file order
    assert names == ['/m/apple', '/m/orange', '/m/apple', '/m/bench1', '/m/fruit']
    assert store.box[store.boxes_of_image(0)].tolist() == [[0.1, 0.2, 0.5, 0.6]] * 2 + [[0.6, 0.6, 0.9, 0.9]]
    assert store.boxes_of_image(3) == slice(5, 5)
    assert store.image_label[store.labels_of_image(3)].tolist() == [1]
    assert store.image_label_confidence[store.labels_of_image(0)].tolist() == [1, 0]
    assert store.image_of_label().tolist() == [0, 0, 3]
    assert store.is_group_of.tolist() == [0, 0, -1, 1, 0]
    assert store.flag('IsOccluded').tolist() == [-1] * 5
    assert dict(zip(store.image_ids(), zip(store.width.tolist(), store.height.tolist()))) == SIZES
    assert store.class_names == ('Apple', 'Orange', 'Fruit', 'Bench (/m/bench1)', 'Bench (/m/bench2)')
    assert store.label_names == tuple(LABEL_NAMES)
    assert store.class_box_counts.tolist() == [2, 1, 1, 1, 0]
    summary = store.metadata['summary']
    assert [summary[name] for name in ('boxes', 'group_of_boxes', 'boxes_of_unknown_group_of')] == [5, 1, 1]


def test_images_may_be_in_sub_folders_or_rotated_and_the_data_root_may_move(tmp_path):
    files = write_files(tmp_path / 'data')
    (tmp_path / 'data/images/train_0').mkdir()
    (tmp_path / 'data/images/b1.jpg').rename(tmp_path / 'data/images/train_0/b1.jpg')
    save_image(tmp_path / 'data/images/c2.jpg', (30, 20), turned=True)
    converted(tmp_path / 'data', files)
    (tmp_path / 'data').rename(tmp_path / 'moved')
    store = AnnotationStore(tmp_path / 'moved' / 'store')
    assert store.file_name(0) == 'train_0/b1.jpg'
    assert (store.image_folder / store.file_name(0)).exists()
    assert (store.width[2], store.height[2]) == (30, 20)  # boxes fit the stored pixels


def test_sizes_from_a_csv_need_no_image_files(tmp_path):
    files = {**write_files(tmp_path / 'official'), 'images': None}
    rows = ''.join(f'{name},{width},{height}\n' for name, (width, height) in SIZES.items())
    sizes = tmp_path / 'sizes.csv'
    sizes.write_text('ImageID,Width,image_h\n' + rows + rows)  # the same line twice
    store, _ = converted(tmp_path, files, image_sizes=sizes)
    assert store.image_folder is None
    assert store.width.tolist() == [SIZES[name][0] for name in store.image_ids()]
    for text, message in (
        (f'ImageID,Width,image_h\n{rows}a0,100,201\n', ":6: image 'a0' is 100 x 201 here and 100 x 200 before"),
        ('image_id,image_w,image_h\nb1,1,1\n', ": has no size of 3 annotated images, first 'a0'"),
    ):
        sizes.write_text(text)
        with pytest.raises(AnnotationError, match=rf'sizes\.csv{message}'):
            converted(tmp_path, files, image_sizes=sizes)
    with pytest.raises(ValueError, match='images, image_sizes: one of them is needed'):
        converted(tmp_path, files)


def test_a_store_without_images_or_boxes_is_an_error(tmp_path):
    header = BOXES.splitlines()[0] + '\n'
    files = write_files(tmp_path / 'official', boxes=header)
    with pytest.raises(AnnotationError, match=r'boxes\.csv: no image is left .*; the file has no rows'):
        converted(tmp_path, files, image_labels=None)
    for file in (tmp_path / 'official' / 'images').iterdir():
        file.unlink()
    with pytest.raises(AnnotationError, match=r'no image is left .*; dropped: 2 images without a file, first b1'):
        converted(tmp_path, files, missing_images='drop')
    files = write_files(tmp_path / 'official', boxes=f'{header}a0,/m/pear,0,1,0,1,0\n')
    with pytest.raises(AnnotationError, match=r'boxes\.csv: no box is left .*; dropped: 1 boxes of other classes'):
        converted(tmp_path, files, other_classes='drop')
    assert not (tmp_path / 'store').exists()


def test_missing_image_files_are_an_error_or_dropped_and_counted(tmp_path):
    files = write_files(tmp_path / 'official')
    (tmp_path / 'official' / 'images' / 'b1.jpg').unlink()
    with pytest.raises(AnnotationError, match=r"images: has no file of 1 of the 4 images, first 'b1'"):
        converted(tmp_path, files)
    assert not (tmp_path / 'store').exists()
    store, summary = converted(tmp_path, files, missing_images='drop')
    assert summary.dropped == {
        'images without a file': 1,
        'boxes of images without a file': 3,
        'image-level labels of images without a file': 2,
    }
    assert (store.image_of_box().tolist(), store.image_of_label().tolist()) == ([0, 1], [2])


def test_rows_of_other_classes_are_an_error_or_dropped_and_counted(tmp_path):
    # As the complete image-level label files of V4-V7: 20,000 classes, most without boxes.
    labels = 'ImageID,Source,LabelName,Confidence\nb1,verification,/m/sky,1\nz9,verification,/m/sky,1\n'
    labels += 'd3,verification,/m/orange,0\n'
    boxes = BOXES + 'e4,/m/pear,0.1,0.5,0.2,0.6,0\nb1,/m/pear,0.1,0.5,0.2,0.6,0\n'
    files = write_files(tmp_path / 'official', boxes=boxes, labels=labels)
    with pytest.raises(AnnotationError, match=r"boxes\.csv:7: '/m/pear' is not a class of .*--other-classes drop"):
        converted(tmp_path, files)
    store, summary = converted(tmp_path, files, other_classes='drop')
    assert (summary.box_rows, summary.boxes, summary.label_rows, summary.image_labels) == (7, 5, 3, 1)
    assert summary.dropped == {
        'boxes of other classes': 2,
        'image-level labels of other classes': 2,
        'images with rows of other classes only': 2,
    }
    assert list(summary.first.values()) == ['e4', 'b1', 'e4']
    assert store.image_ids() == ['b1', 'a0', 'c2', 'd3']
    assert store.image_of_box().tolist() == [0, 0, 0, 1, 2]
    assert store.image_of_label().tolist() == [3]


@pytest.mark.parametrize('seed', range(4))
def test_a_store_holds_every_row_whatever_the_order_of_the_file(tmp_path, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 9, rng.integers(0, 80))
    if seed % 2:
        image = np.sort(image)
    corners = np.sort(rng.random((len(image), 2, 2)).round(6)).reshape(-1, 4)
    rows = [(f'i{i}', LABEL_NAMES[rng.integers(5)], *box) for i, box in zip(image, corners.tolist())]
    header = 'ImageID,LabelName,XMin,XMax,YMin,YMax\n'
    files = write_files(tmp_path, header + ''.join(','.join(map(str, row)) + '\n' for row in rows))
    sizes = ['image_id,width,height', 'b1,9,9', 'd3,9,9', *(f'i{k},{k + 1},9' for k in range(9))]
    (tmp_path / 'sizes.csv').write_text('\n'.join(sizes))
    store, _ = converted(tmp_path, files, images=None, image_sizes=tmp_path / 'sizes.csv')
    assert store.image_ids() == [*dict.fromkeys(row[0] for row in rows), 'b1', 'd3']
    ancestors = {'/m/apple': ['/m/fruit'], '/m/orange': ['/m/fruit']}
    for number, image_id in enumerate(store.image_ids()):
        part = store.boxes_of_image(number)
        found = [
            (image_id, LABEL_NAMES[label], box[0], box[2], box[1], box[3])
            for label, box in zip(store.box_label[part], store.box[part])
        ]
        assert found == [row for row in rows if row[0] == image_id]
    for expand in (False, True):
        for label, name in enumerate(LABEL_NAMES):
            holds = {row[0] for row in rows if name in [row[1], *(ancestors.get(row[1], []) if expand else [])]}
            listed = store.images_of_class(label, expand)
            assert (np.diff(listed) > 0).all()
            assert {store.image_id(int(i)) for i in listed} == holds
            assert store.class_image_counts(expand)[label] == len(holds)


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('c2,/m/fruit,0.25,', 'c2,/m/fruit,1.0100001,', r'boxes\.csv:6: XMin = 1\.0100001 is outside \[0, 1\]'),
        ('c2,/m/fruit,0.25,', 'c2,/m/fruit,left,', r"boxes\.csv:6: XMin: .* invalid value 'left'"),
        ('c2,/m/fruit,0.25,', 'c2,/m/fruit,,', r'boxes\.csv:6: XMin is empty'),
        ('c2,/m/fruit,0.25,', 'c2,/m/fruit,nan,', r'boxes\.csv:6: XMin = nan is outside \[0, 1\]'),
        ('c2,/m/fruit,0.25,', 'c2,/m/fruit,', r'boxes\.csv:6: Expected 7 columns, got 6'),
        ('c2,/m/fruit,', '\n\nc2,/m/pear,', r"boxes\.csv:8: '/m/pear' is not a class of .*classes\.csv"),
        ('XMax', 'XMin', r"boxes\.csv:1: has twice the column 'XMin'; it has ImageID, LabelName, XMin, XMin"),
        ('0.9,-1', '0.9,2', r'boxes\.csv:5: IsGroupOf = 2 must be 1, 0 or -1'),
        ('XMin', 'Left', r"boxes\.csv:1: has no column 'XMin'; it has ImageID, LabelName, Left"),
    ],
)
def test_an_error_names_the_file_and_the_line(tmp_path, old, new, message):
    assert old in BOXES
    files = write_files(tmp_path / 'official', boxes=BOXES.replace(old, new))
    with pytest.raises(AnnotationError, match=message):
        convert(tmp_path / 'store', **files)
    assert not list(tmp_path.glob('*store*'))


def test_packed_and_empty_files(tmp_path):
    files = write_files(tmp_path)
    packed = tmp_path / 'boxes.csv.gz'
    packed.write_bytes(gzip.compress(Path(files['boxes']).read_bytes()))
    calls = []
    assert read_boxes(packed, progress=lambda *call: calls.append(call)).equals(read_boxes(files['boxes']))
    assert calls and calls[-1] == (f'reading {packed.name}, MB', 1, 1)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(AnnotationError, match=r'boxes\.csv\.gz: cannot be read'):
        read_boxes(packed)
    (tmp_path / 'empty.csv').touch()
    with pytest.raises(AnnotationError, match=r'empty\.csv: is empty'):
        read_boxes(tmp_path / 'empty.csv')


def test_other_folders_are_not_opened_or_replaced(tmp_path):
    with pytest.raises(AnnotationError, match='no such folder'):
        AnnotationStore(tmp_path / 'nowhere')
    files = write_files(tmp_path / 'official')
    with pytest.raises(AnnotationError, match='was not written by'):
        AnnotationStore(tmp_path / 'official')
    with pytest.raises(FileExistsError, match='was not written by mmoid'):
        convert(tmp_path / 'official', **files, overwrite=True)
    with pytest.raises(PermissionError, match=r'boxes\.csv is not a writable directory'):
        convert(tmp_path / 'official' / 'boxes.csv' / 'store', **files)


def test_a_store_of_another_version_or_with_a_damaged_file_says_how_to_make_it_again(store):
    whole = (store.path / 'boxes.arrow').read_bytes()
    for part in (b'half', whole[: len(whole) // 2], whole[:-1]):
        (store.path / 'boxes.arrow').write_bytes(part)
        with pytest.raises(AnnotationError, match=r'boxes\.arrow: is missing or damaged .*; make .*store again'):
            AnnotationStore(store.path)
    metadata = (store.path / 'metadata.json').read_text().replace('"version": 1', '"version": 0')
    (store.path / 'metadata.json').write_text(metadata)
    with pytest.raises(AnnotationError, match=r'format version is 0, .*; make it again with mmoid prepare'):
        AnnotationStore(store.path)


def test_files_of_two_stores_in_one_folder_are_an_error(tmp_path, store):
    more = BOXES + 'd3,/m/orange,0.1,0.5,0.2,0.6,0\n'
    other, _ = converted(tmp_path / 'more', write_files(tmp_path / 'more', boxes=more))
    (other.path / 'boxes.arrow').rename(store.path / 'boxes.arrow')
    with pytest.raises(AnnotationError, match=r'boxes\.arrow: has 6 rows, images\.arrow has box_stop 5'):
        AnnotationStore(store.path)


def test_a_store_pickles_as_its_path_and_any_arrow_tool_reads_its_mapped_columns(store):
    data = pickle.dumps(store)
    assert len(data) < 500
    assert (pickle.loads(data).box == store.box).all()
    with pytest.raises(ValueError, match='read-only'):
        store.box[0] = 0
    table = pa.ipc.open_file(str(store.path / 'boxes.arrow')).read_all()
    assert np.array(table['box'].to_pylist()).tolist() == store.box.tolist()


@pytest.mark.parametrize('split', ['train', 'validation', 'test'])
def test_real_files_of_version_3_and_sizes_are_read(split):
    assert len(read_image_sizes(open_images('classes/validation-image-sizes.csv'))) == 41620
    boxes = read_boxes(open_images(f'human-labels/v3-{split}-annotations-human-bbox.csv'))
    assert len(boxes) == 1000
    flags = set(boxes['IsGroupOf'].to_pylist())
    assert flags == {-1} if split == 'train' else {0, 1} <= flags
    labels = read_image_labels(open_images(f'human-labels/v3-{split}-annotations-human.csv'))
    assert set(labels['Confidence'].to_pylist()) == {0, 1}
