import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.parquet import import_parquet
from mmoid.openimages.store.annotation_store import AnnotationStore


def encoded(width, height, kind='JPEG'):
    stream = io.BytesIO()
    Image.new('RGB', (width, height)).save(stream, kind)
    return stream.getvalue()


ROWS = [
    dict(
        image_id=7,
        image=dict(bytes=encoded(100, 50), path=None),
        bbox=[[10, 5, 40, 20], [10, 5, 40, 20]],
        category=[0, 2],
    ),
    dict(image_id=8, image=dict(bytes=encoded(40, 40, 'PNG'), path=None), bbox=[], category=[]),
    dict(image_id=9, image=dict(bytes=encoded(10, 10), path='some/dog.jpg'), bbox=[[8, 8, 4, 1]], category=[1]),
]
NAMES = ['fruit', 'dog', 'apple']


def write(path, rows=ROWS, names=NAMES, label='category', **changes):
    """As the library ``datasets`` writes them."""
    kind = pa.string() if rows and any(isinstance(v, str) for r in rows for v in r['category']) else pa.int64()
    objects = pa.struct([('bbox', pa.list_(pa.list_(pa.float32()))), (label, pa.list_(kind))])
    image = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
    feature = {'bbox': {}, label: {'feature': {'names': names, '_type': 'ClassLabel'}}}
    meta = {'huggingface': json.dumps({'info': {'features': {'objects': feature}}})} if names else None
    columns = {
        'image_id': pa.array([row['image_id'] for row in rows], pa.int64()),
        'image': pa.array([row['image'] for row in rows], image),
        'objects': pa.array([{'bbox': row['bbox'], label: row['category']} for row in rows], objects),
    }
    pq.write_table(pa.table({**columns, **changes}).replace_schema_metadata(meta), path)
    return path


def imported(tmp_path, *files, **options):
    summary = import_parquet(tmp_path / 'store', files=files, images=tmp_path / 'images', overwrite=True, **options)
    return AnnotationStore(tmp_path / 'store'), summary


def test_images_boxes_and_class_names_come_from_the_files(tmp_path):
    store, summary = imported(
        tmp_path, write(tmp_path / '0.parquet', ROWS[:2]), write(tmp_path / '1.parquet', ROWS[2:])
    )
    assert [store.file_name(i) for i in range(3)] == ['7.jpg', '8.png', 'dog.jpg']
    assert store.image_ids() == ['7', '8', 'dog'] and store.class_names == ('fruit', 'dog', 'apple')
    assert np.array([store.width, store.height]).T.tolist() == [[100, 50], [40, 40], [10, 10]]
    assert store.box_label.tolist() == [0, 2, 1] and store.box_stop.tolist() == [2, 2, 3]
    np.testing.assert_allclose(store.box, [[0.1, 0.1, 0.5, 0.5]] * 2 + [[0.8, 0.8, 1, 0.9]])
    assert summary.changed == {'boxes cut at the edges of the image': 1}
    assert summary.first == {'boxes cut at the edges of the image': f'{tmp_path}/1.parquet: row 0'}
    assert Image.open(store.image_folder / '8.png').size == (40, 40)
    other = dict(ROWS[1], image=dict(bytes=ROWS[1]['image']['bytes'][:-1] + b'x', path=None))
    with pytest.raises(AnnotationError, match=r'a\.parquet: row 0: .*8\.png is another file; give another --images'):
        imported(tmp_path, write(tmp_path / 'a.parquet', [other]))


def test_images_take_the_ending_of_their_format_and_those_without_a_name_that_of_the_row(tmp_path):
    for image_id, content, name in (
        (None, encoded(9, 9), 'a-0.jpg'),
        (None, encoded(9, 9, 'MPO'), 'a-0.jpg'),
        ('x_jpg.rf.0a1b', encoded(9, 9, 'PNG'), 'x_jpg.rf.0a1b.png'),
    ):
        changes = {'image_id': pa.array([image_id], pa.string())}
        row = dict(ROWS[1], image=dict(bytes=content, path=None))
        store, _ = imported(tmp_path, write(tmp_path / 'a.parquet', [row], **changes))
        assert (store.file_name(0), store.class_names) == (name, ('fruit', 'dog', 'apple'))
        (tmp_path / 'images' / name).unlink()


def test_labels_may_be_names_and_boxes_corners(tmp_path):
    rows = [dict(ROWS[0], category=['pear', 'apple'], bbox=[[10, 5, 50, 25]] * 2)]
    store, _ = imported(tmp_path, write(tmp_path / 'a.parquet', rows, names=None, label='label'), box_format='xyxy')
    assert store.class_names == ('apple', 'pear') and store.box_label.tolist() == [1, 0]
    np.testing.assert_allclose(store.box[0], [0.1, 0.1, 0.5, 0.5])


def test_images_may_lie_in_the_folder_and_names_in_a_file(tmp_path):
    (tmp_path / 'images').mkdir()
    Image.new('RGB', (100, 50)).save(tmp_path / 'images' / 'a.jpg')
    (tmp_path / 'names.txt').write_text('fruit\ndog\napple\n')
    rows = [dict(row, image=dict(bytes=None, path=name)) for row, name in zip(ROWS, ('a.jpg', 'lost.jpg'))]
    file = write(tmp_path / 'a.parquet', rows, names=None)
    with pytest.raises(AnnotationError, match=r'1 of the 2 images'):
        imported(tmp_path, file, classes=tmp_path / 'names.txt')
    store, summary = imported(tmp_path, file, classes=tmp_path / 'names.txt', missing_images='drop')
    assert store.image_ids() == ['a'] and store.num_boxes == 2 and summary.dropped


@pytest.mark.parametrize(
    ('row', 'options', 'message'),
    [
        (dict(category=[0, 3]), {}, r'a\.parquet: row 1: label 3 is not one of the 3 classes'),
        (dict(category=[0]), {}, r'a\.parquet: row 1: has 2 boxes and 1 labels'),
        (dict(bbox=[[1, 2, 3], [1, 2, 3, 4]]), {}, r'row 1: bbox \[1\.0, 2\.0, 3\.0\] must be four numbers'),
        (dict(bbox=[[1, 2, 3, 4], [1, 2, 3, float('nan')]]), {}, r'a\.parquet: row 1: box .* must be four numbers'),
        (dict(), dict(names=None), r'a\.parquet: labels are numbers without names; give the names with --classes'),
        (dict(), dict(label='kind'), r'objects needs bbox and one of category, .*; it has bbox, kind'),
    ],
)
def test_an_error_names_the_file_and_the_row(tmp_path, row, options, message):
    file = write(tmp_path / 'a.parquet', [ROWS[1], dict(ROWS[0], **row)], **options)
    with pytest.raises(AnnotationError, match=message):
        imported(tmp_path, file)


def test_other_files_are_errors(tmp_path):
    files = write(tmp_path / '0.parquet'), write(tmp_path / '1.parquet', names=NAMES[::-1])
    with pytest.raises(AnnotationError, match=r'1\.parquet: has other class names than .*0\.parquet; give files of'):
        imported(tmp_path, *files)
    (tmp_path / 'a.parquet').write_text('no Parquet')
    with pytest.raises(AnnotationError, match=r'a\.parquet: cannot be read as Parquet'):
        imported(tmp_path, tmp_path / 'a.parquet')
    pq.write_table(pa.table({'x': [1]}), tmp_path / 'b.parquet')
    with pytest.raises(AnnotationError, match=r'b\.parquet: has no column objects; it has x'):
        imported(tmp_path, tmp_path / 'b.parquet')


def test_other_layouts_of_the_same_rows(tmp_path):
    """Lists of structs, images as bytes or paths, labels as fractions, ids without extension."""
    (tmp_path / 'images').mkdir()
    for name in ('a.jpg', '0007.png'):
        Image.new('RGB', (100, 50)).save(tmp_path / 'images' / name)
    (tmp_path / 'names.txt').write_text('\ufefffruit\r\napple\r\n')
    box, plain = [10, 5, 40, 20], {'bbox': [[10, 5, 40, 20]], 'label': [1]}
    for image, objects in (
        ({'image_id': ['a']}, plain),
        ({'image_id': [7]}, plain),
        ({'image': ['a.jpg']}, plain),
        ({'image': [encoded(100, 50)], 'image_id': ['b']}, plain),
        ({'image_id': ['a']}, {'bbox': [box], 'label': [1.0]}),
        ({'image_id': ['a']}, [{'bbox': box, 'label': 1}]),
    ):
        pq.write_table(pa.table({**image, 'objects': [objects]}), tmp_path / 'a.parquet')
        store, _ = imported(tmp_path, tmp_path / 'a.parquet', classes=tmp_path / 'names.txt')
        assert store.class_names == ('fruit', 'apple') and store.box_label.tolist() == [1]
        np.testing.assert_allclose(store.box, [[0.1, 0.1, 0.5, 0.5]])
        assert (store.image_folder / store.file_name(0)).is_file()


@pytest.mark.parametrize(
    ('objects', 'message'),
    [
        ({'bbox': ['10 5 40 20'], 'label': ['x']}, r'a\.parquet: objects cannot be read \('),
        ({'bbox': [{'x': 1.0}], 'label': ['x']}, r'a\.parquet: objects cannot be read \('),
        ({'bbox': [['10', 'b', '40', '20']], 'label': ['x']}, r'a\.parquet: objects cannot be read \('),
        ({'bbox': [[1, 2, 3, 4]], 'label': [0.5]}, r'a\.parquet: objects cannot be read \('),
        ({'bbox': [[1, 2, 3, 4]], 'label': [None]}, r'a\.parquet: row 0: a label is empty'),
        ('none', r'a\.parquet: objects needs bbox and one of .*; it has string'),
    ],
)
def test_objects_of_other_types_are_errors(tmp_path, objects, message):
    metadata = {'huggingface': '{"info": [null]}'}
    pq.write_table(pa.table({'image_id': ['a'], 'objects': [objects]}, metadata=metadata), tmp_path / 'a.parquet')
    with pytest.raises(AnnotationError, match=message):
        imported(tmp_path, tmp_path / 'a.parquet')


def test_all_broken_images_are_listed_or_dropped_with_their_boxes(tmp_path):
    rows = [dict(ROWS[0], image=dict(bytes=b'none', path=name)) for name in ('x.jpg', 'y.jpg')]
    file = write(tmp_path / 'a.parquet', [*rows, ROWS[2]])
    with pytest.raises(AnnotationError, match=r'(?s)2 of the 3 images cannot be read; .*x\.jpg \(.*y\.jpg \('):
        imported(tmp_path, file)
    _, summary = imported(tmp_path, file, missing_images='drop')
    assert summary.dropped == {'images that cannot be read': 2, 'boxes of images that cannot be read': 4}
    assert summary.box_rows == 5
