"""Files as users have them: noise is taken for what it plainly means, and everything left out is counted."""

import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.metric.annotations import read_annotations
from mmoid.openimages.readers.csv_files import read_boxes, read_classes, read_image_labels, read_image_sizes
from mmoid.openimages.readers.image_files import read_sizes
from mmoid.openimages.store.summary import Summary
from tests.coco_documents import assert_same
from tests.official_files import BOXES, LABELS, converted, save_image, write_files


@pytest.mark.parametrize(
    'change',
    [
        lambda text: '\ufeff' + text,
        lambda text: text.replace('\n', '\r\n'),
        lambda text: text.replace('ImageID', 'image_id').replace('XMin', 'xmin').replace('IsGroupOf', 'is_group_of'),
        lambda text: text.replace(',1\n', ',True\n').replace(',0\n', ',0.0\n').replace(',-1\n', ',\n'),
        lambda text: text.replace('a0,', 'train/a0.jpg,').replace('c2,', ' c2.JPG,'),
        lambda text: text.replace('a0,/m/bench1,0.0,1.0', 'a0,/m/bench1,-1e-9,1.0000001'),
        lambda text: '\n'.join(','.join(reversed(line.split(','))) for line in text.splitlines()),
        lambda text: text.replace('\n', ',,\n').replace('IsGroupOf,,', 'IsGroupOf,Rotation,Note'),
        lambda text: text.replace(',', ', '),
        lambda text: text.replace('/m/apple', 'Apple').replace('/m/fruit', 'Fruit'),
    ],
    ids='BOM, CRLF, header case, flags, ids, rounding, column order, extra columns, spaces, class names'.split(', '),
)
def test_a_box_file_in_another_spelling_gives_the_same_store(tmp_path, change):
    first, second = tmp_path / 'first', tmp_path / 'second'
    plain, _ = converted(first, write_files(first))
    assert_same(plain, converted(second, write_files(second, boxes=change(BOXES)))[0])


def test_what_a_box_file_has_changed_is_counted_with_its_first_line(tmp_path):
    rows = ['a,/m/x,-0.001,0.5,0,1,0', 'a,/m/x,0,1.005,0,1,yes', 'b.jpg,/m/x,0.6,0.5,0,1,0', 'c,/m/x,0,1,0.5,0.5,']
    path = tmp_path / 'boxes.csv'
    path.write_text('\n'.join(['ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf', *rows]))
    summary = Summary()
    table = read_boxes(path, summary)
    assert table['XMin'].to_pylist() == [0, 0, 0] and table['XMax'].to_pylist() == [0.5, 1, 1]
    assert table['IsGroupOf'].to_pylist() == [0, 1, -1]
    assert (summary.box_rows, summary.dropped) == (4, {'boxes with swapped corners': 1})
    assert summary.changed == {
        'coordinates clipped to [0, 1]': 2,
        'flags that are empty or not written as 1, 0 or -1': 2,
        'images left without a row of boxes.csv': 1,
    }
    assert summary.lines() == [
        'dropped: 1 boxes with swapped corners, first boxes.csv:4',
        'changed: 2 coordinates clipped to [0, 1], first boxes.csv:2',
        'changed: 2 flags that are empty or not written as 1, 0 or -1, first boxes.csv:3',
        'changed: 1 images left without a row of boxes.csv, first b.jpg',
    ]


def test_an_error_after_dropped_rows_still_names_the_right_line(tmp_path):
    boxes = BOXES.replace('b1,/m/apple,0.1,0.5', 'b1,/m/apple,0.5,0.1') + 'd3,/m/pear,0,1,0,1,0\n'
    files = write_files(tmp_path / 'official', boxes=boxes)
    with pytest.raises(AnnotationError, match=r"boxes\.csv:7: '/m/pear' is not a class"):
        converted(tmp_path, files)


def test_ids_with_folder_or_extension_are_the_same_images_in_all_files(tmp_path):
    """Case 08."""
    boxes = BOXES.replace('b1,', 'train/b1.jpg,')
    files = write_files(tmp_path / 'official', boxes=boxes, labels=LABELS.replace('d3,', 'd3.jpg,'))
    sizes = 'ImageId,width,height\nb1,200,100\na0.jpg,100,200\ntrain/c2,64.0,64\nd3.jpg,50,80\n'
    (tmp_path / 'sizes.csv').write_text(sizes)
    for address in ('https://host/train/', 's3://bucket/', 'C:\\data\\', '/data/'):
        other = write_files(tmp_path / 'other', boxes=BOXES.replace('b1,', f'{address}b1.jpg,'), labels=LABELS)
        store, _ = converted(tmp_path, other, images=None, image_sizes=tmp_path / 'sizes.csv')
        assert store.file_name(0) == 'b1.jpg' and store.image_id(0) == 'b1'
    for images, name in ((files['images'], 'b1.jpg'), (None, 'train/b1.jpg')):
        store, summary = converted(tmp_path, files, images=images, image_sizes=tmp_path / 'sizes.csv')
        assert store.file_name(0) == name
    assert store.image_ids() == ['b1', 'a0', 'c2', 'd3']
    assert store.width.tolist() == [200, 100, 64, 50]
    assert summary.changed == {'image ids taken without folder or extension': 2}
    assert read_annotations(*(files[key] for key in ('boxes', 'classes'))).image_ids == ['b1', 'a0', 'c2']


def test_ids_that_were_taken_for_numbers_find_their_files_and_sizes(tmp_path):
    boxes = 'ImageID,LabelName,XMin,XMax,YMin,YMax\n12,/m/apple,0,1,0,1\n7.0,/m/apple,0,1,0,1\n'
    files = write_files(tmp_path / 'official', boxes=boxes) | {'image_labels': None}
    for name in ('0012', '0007'):
        shutil.copy(tmp_path / 'official/images/a0.jpg', tmp_path / f'official/images/{name}.jpg')
    store, _ = converted(tmp_path, files)
    assert [store.file_name(i) for i in range(2)] == ['0012.jpg', '0007.jpg']
    (tmp_path / 'sizes.csv').write_text('ImageId,width,height\n0007,200,100\n0012,50,60\n')
    store, _ = converted(tmp_path, files, images=None, image_sizes=tmp_path / 'sizes.csv')
    assert store.width.tolist() == [50, 200]


def test_two_ids_do_not_share_a_file_or_a_size(tmp_path):
    boxes = BOXES.replace('b1,', 'x/b1.jpg,').replace('c2,', 'y/b1.jpg,')
    files = write_files(tmp_path / 'official', boxes=boxes) | {'image_labels': None}
    message = r"'x/b1.jpg' and 'y/b1.jpg' are the same image; expected each image once"
    with pytest.raises(AnnotationError, match=rf'images: {message}'):
        converted(tmp_path, files)
    (tmp_path / 'sizes.csv').write_text('ImageId,width,height\nb1,200,100\na0,50,60\n')
    with pytest.raises(AnnotationError, match=r"sizes\.csv: 'x/b1' and 'y/b1' are the same image"):
        converted(tmp_path, files, images=None, image_sizes=tmp_path / 'sizes.csv')
    (tmp_path / 'official/images/x').mkdir()
    (tmp_path / 'official/images/b1.jpg').rename(tmp_path / 'official/images/x/b1.jpg')
    with pytest.raises(AnnotationError, match=r"has no file of 1 of the 3 images, first 'y/b1'"):
        converted(tmp_path, files)


def test_sizes_are_compared_with_some_image_files(tmp_path):
    files = write_files(tmp_path / 'official')
    (tmp_path / 'sizes.csv').write_text('ImageId,height,width\nb1,200,100\na0,100,200\nc2,64,64\nd3,50,80\n')
    with pytest.raises(AnnotationError, match=r"sizes\.csv: image 'b1.jpg' is 100 x 200, its file in .* is 200 x 100"):
        converted(tmp_path, files, image_sizes=tmp_path / 'sizes.csv')


def test_machine_generated_labels_verify_nothing(tmp_path):
    """Case 16."""
    path = tmp_path / 'labels.csv'
    human = 'a,verification,/m/x,1\nb,crowdsource-verification,/m/x,0\n'
    header = 'ImageID,Source,LabelName,Confidence\n'
    path.write_text(f'{header}{human}b,machine,/m/y,1.0\nb,,/m/y,0.5\n')
    summary = Summary()
    assert read_image_labels(path, summary)['Confidence'].to_pylist() == [1, 0]
    assert summary.lines() == ['dropped: 2 machine-generated labels, first labels.csv:4']
    for row, message in (
        ('machine,/m/y,0.9', ': all labels are machine-generated; give the human-verified'),
        ('verification,/m/y,1.5', ':2: Confidence = 1.5 is outside'),
    ):
        path.write_text(f'{header}b,{row}\n')
        with pytest.raises(AnnotationError, match=rf'labels\.csv{message}'):
            read_image_labels(path)


def test_classes_given_by_name_are_counted(tmp_path):
    _, summary = converted(
        tmp_path, write_files(tmp_path / 'official', boxes=BOXES.replace('a0,/m/bench1', 'a0,Fruit'))
    )
    assert summary.lines() == ['changed: 1 classes given by name, or with spaces, instead of MID, first boxes.csv:4']
    with pytest.raises(AnnotationError, match=r"boxes\.csv:4: 'Bench' is not a class"):  # the name of two classes
        converted(tmp_path, write_files(tmp_path / 'official', boxes=BOXES.replace('a0,/m/bench1', 'a0,Bench')))


def test_labels_of_another_split_are_counted(tmp_path):
    files = write_files(tmp_path / 'official', labels=LABELS.replace('b1,', 'd3,'))
    reason = 'image-level labels, none of them of an image with boxes; check that both files are of one split'
    assert converted(tmp_path, files)[1].changed == {reason: 3}
    summary = Summary()
    read_annotations(*(files[key] for key in ('boxes', 'classes', 'hierarchy', 'image_labels')), summary)
    assert summary.changed == {reason: 3}


@pytest.mark.parametrize(
    ('text', 'mids'),
    [
        ('/m/b,B,2\n/m/a,A,1\n', ['/m/a', '/m/b']),
        ('/m/b,B,1\n/m/a,A,0\n', ['/m/a', '/m/b']),
        ('/m/b,B,2.0\n/m/a,A,1.0\n', ['/m/a', '/m/b']),
        ('mid,name,\n/m/b,B,\n/m/a,A,\n', ['/m/b', '/m/a']),
        ('LabelName,DisplayName,Id\n/m/a,"A, b",1\n', ['/m/a']),
        ('\ufeffmid,display name\r\n/m/a,A\r\n\r\n/m/b,B\r\n', ['/m/a', '/m/b']),
        ('identifier,text\n/m/a,A\n', ['/m/a']),
        ('  \ndog,Dog\ncat,Cat\n \n', ['dog', 'cat']),
    ],
)
def test_class_files_of_other_tools(tmp_path, text, mids):
    """Case 20."""
    (tmp_path / 'classes.csv').write_text(text, newline='')
    assert read_classes(tmp_path / 'classes.csv').label_names == tuple(mids)


@pytest.mark.parametrize('children', ['[{"LabelName": "a", "Subcategory": null, "Part": null}]', '{"LabelName": "a"}'])
def test_hierarchies_of_other_tools(tmp_path, children):
    """Case 13."""
    tree = f'\ufeff{{"LabelName": "r", "Subcategory": {children}}}'
    for encoding in ('utf-8', 'utf-16'):
        (tmp_path / 'tree.json').write_text(tree.removeprefix('\ufeff' * (encoding == 'utf-16')), encoding=encoding)
        assert ClassHierarchy.from_json(tmp_path / 'tree.json', ['a']).depth.tolist() == [1]


READERS = {
    'classes.csv': read_classes,
    'sizes.csv': read_image_sizes,
    'predictions.csv': read_boxes,
    'tree.json': lambda path: ClassHierarchy.from_json(path, ()),
}
SIZES_CSV = 'id,Image_ID,image_w,Height\n1,a,{},5\n'
PREDICTIONS = 'ImageID,LabelName,{},XMin,XMax,YMin,YMax\na,/m/x,1,0,1,0,1\na,/m/x,0.5,0,1,0,1\n'


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('classes.csv', '/m/a,A\n/m/a,B\n', "2: class '/m/a' occurs twice"),
        ('classes.csv', '/m/a,A\nApple\n', "2: expected 'MID,name'.*got 'Apple'"),
        ('classes.csv', '/m/a,A\n/m/b,Bench, wooden\n', '2: .*quote a name with a comma'),
        ('classes.csv', '/m/a,A,1\n/m/b,B,1\n', '2: class index 1; expected each of 1 to 2 once'),
        ('classes.csv', '/m/a,A,7\n/m/b,B,8\n', '1: class index 7; expected each of 1 to 2 once'),
        ('classes.csv', 'ImageId,PredictionString\na,\n', "2: expected 'MID,name'"),
        ('classes.csv', '', ' holds no classes'),
        ('sizes.csv', SIZES_CSV.format('10.5'), r'2: width = 10\.5 must be a whole'),
        ('sizes.csv', SIZES_CSV.format('0'), '2: width = 0.0'),
        ('sizes.csv', SIZES_CSV.format('nan'), '2: width = nan'),
        ('predictions.csv', PREDICTIONS.format('Score'), '1: has a column Score'),
        ('predictions.csv', PREDICTIONS.format('Conf'), '1: has a column Conf'),
        ('predictions.csv', PREDICTIONS.format('Confidence'), r'3: Confidence = 0\.5, as'),
        ('tree.json', '{"LabelName": "r", "Subcategory": ["a"]}', r" Subcategory of 'r' must hold objects .*got \"a\""),
        ('tree.json', '{"LabelName": "r", "Part": [{"LabelName": 3}]}', ' Part of .*got {"LabelName": 3}'),
        ('tree.json', '{"LabelName": "r", "Subcategory": "a"}', ' Subcategory of .*got "a"'),
        ('tree.json', '{"LabelName": "r", "SubCategory": [0]}', " 'r' has a key 'SubCategory' that is not underst"),
        ('tree.json', '{"categories": []}', " expected an object with 'LabelName' at the top level, got {"),
        ('tree.json', '[' * 100_000, ' cannot be read as a hierarchy JSON'),
    ],
)
def test_a_bad_file_is_an_error_that_names_it_and_the_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(AnnotationError, match=f'{name}:{message}'):
        READERS[name](tmp_path / name)


def test_copies_in_class_folders_are_one_image_and_files_nobody_needs_are_ignored(tmp_path):
    """Case 11."""
    files = write_files(tmp_path / 'official')
    images = tmp_path / 'official' / 'images'
    names = ['Apple/b1.jpg', 'Orange/b1.jpg', 'x/unused.jpg', 'y/unused.png', 'x/._a0.jpg', 'x/a0.jpg.txt', '.x/b1.jpg']
    for name in [*names, 'x/caf\udce9.jpg']:
        (images / name).parent.mkdir(exist_ok=True)
        shutil.copy(images / ('b1.jpg' if 'b1' in name else 'a0.jpg'), images / name)
    for name in ('y/unused.png', '.x/b1.jpg'):
        (images / name).write_text('no image')
    (images / 'b1.jpg').unlink()
    store, summary = converted(tmp_path, files)
    assert store.num_images == 4
    assert store.file_name(0) == 'Apple/b1.jpg'
    assert summary.lines() == [
        r'dropped: 1 image files whose names are not UTF-8, first x/caf\udce9.jpg',
        'changed: 1 copies of an image file taken once, first Orange/b1.jpg',
    ]
    Image.new('RGB', (200, 100)).save(images / 'Orange/b1.jpg')
    with pytest.raises(AnnotationError, match=r"different files of image 'b1': Apple/b1\.jpg, Orange/b1\.jpg"):
        converted(tmp_path, files)


def test_all_unreadable_images_are_listed_or_dropped(tmp_path):
    files = write_files(tmp_path / 'official')
    images = tmp_path / 'official' / 'images'
    (images / 'a0.jpg').write_bytes(b'')
    (images / 'b1.jpg').write_text('<html>404</html>')
    message = r'(?s)2 of the 4 images cannot be read; .*\n.*b1\.jpg \(.*\n.*a0\.jpg \('
    with pytest.raises(AnnotationError, match=message):
        converted(tmp_path, files)
    store, summary = converted(tmp_path, files, missing_images='drop')
    assert store.image_ids() == ['c2', 'd3'] and store.width.tolist() == [64, 50]
    assert summary.dropped['images that cannot be read'] == 2
    assert summary.dropped['boxes of images that cannot be read'] == 4


@pytest.mark.parametrize('kind', ['jpg', 'png', 'webp'])
def test_images_are_turned_as_opencv_turns_them(tmp_path, kind):
    names = [f'{k}.{kind}' for k in range(4)]
    save_image(tmp_path / names[0], (40, 20), turned=True)
    options = {'xmp': b'<x tiff:Orientation="6"/>'}, {'exif': b'Exif\0\0garbage'}, {'exif': b'Exif\0\0II*'}
    for name, option in zip(names[1:], options):
        Image.new('RGB', (40, 20)).save(tmp_path / name, **option)
    turned = [cv2.imread(str(tmp_path / name)).shape[1::-1] for name in names]
    assert [tuple(size) for size in read_sizes(tmp_path, names, upright=True)[0].tolist()] == turned


def test_an_image_outside_the_image_folder_is_refused(tmp_path):
    boxes = 'ImageID,LabelName,XMin,XMax,YMin,YMax\n../secret.jpg,/m/apple,0,1,0,1\n'
    files = write_files(tmp_path / 'official', boxes=boxes)
    (tmp_path / 'sizes.csv').write_text('image_id,width,height\nsecret,9,9\n')
    options = {'image_labels': None, 'images': None, 'image_sizes': tmp_path / 'sizes.csv'}
    with pytest.raises(AnnotationError, match=r"'\.\./secret\.jpg' lies outside the image folder"):
        converted(tmp_path, files, **options)


def test_images_without_annotations_become_a_store_to_predict_on(tmp_path):
    files = write_files(tmp_path / 'official')
    files |= dict.fromkeys(('boxes', 'image_labels', 'hierarchy'))
    store, summary = converted(tmp_path, files)
    assert store.image_ids() == ['a0', 'b1', 'c2', 'd3']
    assert (store.num_boxes, summary.images_without_boxes, summary.classes) == (0, 4, 5)
    assert not store.hierarchy.ancestor_matrix.any()
    (tmp_path / 'sizes.csv').write_text('ImageID,width,height\nq,4,5\np,6,7\n')
    store, _ = converted(tmp_path, files, images=None, image_sizes=tmp_path / 'sizes.csv')
    assert [(store.image_id(i), store.file_name(i)) for i in range(2)] == [('q', 'q.jpg'), ('p', 'p.jpg')]
    assert np.array([store.width, store.height]).T.tolist() == [[4, 5], [6, 7]]


def test_boxes_below_a_pixel_are_counted_and_kept(tmp_path):
    boxes = BOXES + 'd3,/m/apple,0.5,0.5,0.2,0.4,0\nd3,/m/apple,0.5,0.519,0.2,0.4,0\nd3,/m/apple,0.5,0.521,0.2,0.4,0\n'
    store, summary = converted(tmp_path, write_files(tmp_path / 'official', boxes=boxes))
    assert summary.boxes_below_a_pixel == 2 and store.num_boxes == 8
    assert store.boxes_below_a_pixel.tolist() == [5, 6]
    del store.metadata['boxes_below_a_pixel']  # a store that was made before they were counted
    del store.__dict__['boxes_below_a_pixel']
    assert store.boxes_below_a_pixel.tolist() == [5, 6]
