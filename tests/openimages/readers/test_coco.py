"""COCO JSON files -> AnnotationStore, the errors for bad files, and back to files that others read."""

import json

import numpy as np
import pytest
from mmdet.datasets import CocoDataset

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.matching import GroundTruth
from mmoid.openimages.readers import coco
from mmoid.openimages.readers.coco import export_coco, import_coco
from mmoid.openimages.store.annotation_store import NOT_EXHAUSTIVE, AnnotationStore
from tests.coco_documents import assert_same, coco_document, random_store, write_coco
from tests.official_files import TREE, converted, save_image, tree, write_files
from tests.tool_runs import tool


def imported(folder, document, **options):
    folder.mkdir(exist_ok=True)
    summary = import_coco(folder / 'store', annotations=write_coco(folder, document), overwrite=True, **options)
    return AnnotationStore(folder / 'store'), summary


def test_a_coco_file_becomes_a_store(tmp_path):
    store, summary = imported(tmp_path, coco_document())
    assert store.image_ids() == ['b', 'é "q"', 'a.b']
    assert [store.file_name(i) for i in range(3)] == ['train/b.jpg', 'train/é "q".jpg', 'a.b.jpeg']
    assert (store.width.tolist(), store.height.tolist()) == ([200, 20, 100], [100, 30, 50])
    assert store.label_names == store.class_names == ('dog', 'car')
    assert (store.box_stop.tolist(), store.box_label.tolist()) == ([2, 2, 3], [0, 1, 1])
    boxes = [[0.05, 0.2, 0.2025, 0.6], [0.0075, 0.025, 0.025, 0.07], [0, 0, 1, 1]]
    np.testing.assert_allclose(store.box, boxes, atol=1e-15)
    assert store.is_group_of.tolist() == [0, -1, 1]
    assert store.flag('IsInside').tolist() == [-1, 1, -1]
    assert store.flag('IsOccluded').tolist() == [-1, -1, -1]
    assert store.image_of_label().tolist() == [1, 1, 2]
    assert (store.image_label.tolist(), store.image_label_confidence.tolist()) == ([0, 1, 0], [1, 1, 0])
    assert not store.hierarchy.ancestor_matrix.any()
    assert store.image_folder is None
    assert (summary.box_rows, summary.label_rows, summary.boxes, summary.images_without_boxes) == (3, 3, 3, 1)
    assert summary.dropped == {}
    assert store.metadata['sources'][0]['name'] == 'instances.json'


def test_a_byte_order_mark_and_unescaped_text_make_no_difference(tmp_path):
    path = write_coco(tmp_path, coco_document(), ensure_ascii=False)
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
    import_coco(tmp_path / 'store', annotations=path)
    assert_same(imported(tmp_path / 'plain', coco_document())[0], AnnotationStore(tmp_path / 'store'))


@pytest.mark.parametrize('key', ['freebase_id', 'mid'])
def test_the_freebase_id_is_the_class_and_names_become_unique(tmp_path, key):
    document = coco_document()
    for category, label_name in zip(document['categories'], ('/m/bench1', '/m/bench2')):
        category |= {'name': 'Bench', key: label_name}
    store, _ = imported(tmp_path, document)
    assert store.label_names == ('/m/bench1', '/m/bench2')
    assert store.class_names == ('Bench (/m/bench1)', 'Bench (/m/bench2)')


@pytest.mark.parametrize(
    ('second', 'ids'),
    [
        ('y/a.jpg', ['x/a', 'y/a', 'b']),
        ('x/a.png', ['x/a.jpg', 'x/a.png', 'b.jpg']),
        ('x/.jpg', ['a', '.jpg', 'b']),
    ],
)
def test_the_image_id_is_as_much_of_the_file_name_as_is_unique(tmp_path, second, ids):
    document = coco_document()
    for image, name in zip(document['images'], ('x/a.jpg', second, 'b.jpg')):
        image['file_name'] = name
    assert imported(tmp_path, document)[0].image_ids() == ids


def test_a_hierarchy_is_taken_from_its_file_and_never_guessed(tmp_path):
    (tmp_path / 'hierarchy.json').write_text(json.dumps(tree({'car': {'dog': {}}})))
    store, _ = imported(tmp_path, coco_document(), hierarchy=tmp_path / 'hierarchy.json')
    assert store.hierarchy.ancestors(0).tolist() == [1]
    assert [source['name'] for source in store.metadata['sources']] == ['instances.json', 'hierarchy.json']
    (tmp_path / 'hierarchy.json').write_text(json.dumps(TREE))
    with pytest.raises(AnnotationError, match=r"hierarchy\.json: lacks 2 of the 2 classes, first 'car'"):
        imported(tmp_path, coco_document(), hierarchy=tmp_path / 'hierarchy.json')


def test_supercategories_become_classes_above_their_categories(tmp_path):
    document = coco_document()
    document['categories'] += [
        {'id': 40, 'name': 'person', 'supercategory': 'person'},
        {'id': 41, 'name': 'cat', 'supercategory': 'animal'},
        {'id': 42, 'name': 'thing', 'supercategory': 'none'},
    ]
    store, _ = imported(tmp_path, document, supercategories=True)
    assert store.class_names == ('dog', 'car', 'person', 'cat', 'thing', 'animal', 'vehicle')
    assert np.argwhere(store.hierarchy.ancestor_matrix).tolist() == [[0, 5], [1, 6], [3, 5]]
    assert store.class_image_counts().tolist() == [1, 2, 0, 0, 0, 1, 2]
    bare = {**document, 'categories': [{'id': id, 'name': str(id)} for id in (18, 3)]}
    with pytest.raises(AnnotationError, match=r'instances\.json: no category has a supercategory'):
        imported(tmp_path, bare, supercategories=True)
    with pytest.raises(ValueError, match='supercategories, hierarchy: give one of them'):
        imported(tmp_path, document, supercategories=True, hierarchy='tree.json')


def test_files_of_lvis_name_images_by_their_address(tmp_path):
    document = coco_document()
    for image in document['images']:
        name = image.pop('file_name').rpartition('/')[2]
        image |= {'coco_url': f'http://images.cocodataset.org/val2017/{name}', 'not_exhaustive_category_ids': [3]}
    store, _ = imported(tmp_path, document)
    assert store.file_name(0) == 'val2017/b.jpg' and store.image_id(0) == 'b'
    assert store.image_label.tolist() == [1, 0, 1, 1, 0, 1]
    assert store.image_label_confidence.tolist() == [2, 1, 1, 2, 0, 2]
    assert GroundTruth.build(annotations_of_store(store)).not_exhaustive.tolist() == [1, 3, 5]
    del document['images'][1]['coco_url']
    with pytest.raises(AnnotationError, match=r'images\[1\]: Object missing required field `file_name`'):
        imported(tmp_path, document)


def v3det_files(folder):
    """The keys of V3Det that are read, and others. n1 > n2 > n4 and n1 > n3 > n4, n5; n2 and n0 are no categories."""
    tree = {
        'id2name': {'n0': 'entity', 'n1': 'plant', 'n2': 'woody plant', 'n3': 'crop', 'n4': 'olive', 'n5': 'olive'},
        'categoryid2treeid': {'1': 'n1', '2': 'n4', '3': 'n5', '4': 'n3'},
        'father2child': {'n0': ['n1'], 'n1': ['n2', 'n3'], 'n2': ['n4'], 'n3': ['n4', 'n5']},
        'child2father': {'n1': ['n0'], 'n2': ['n1'], 'n3': ['n1'], 'n4': ['n2', 'n3'], 'n5': ['n3']},
    }
    names = ('plant', 'olive', 'olive', 'crop')
    document = {
        'images': [{'id': 1, 'file_name': 'images/n4/4_1.jpg', 'width': 10, 'height': 20}],
        'categories': [
            {'id': i, 'name': name, 'cat_info': '', 'novel': False} for i, name in enumerate(names, start=1)
        ],
        'annotations': [{'id': 1, 'image_id': 1, 'category_id': 2, 'bbox': [1, 2, 3, 4], 'area': 12, 'iscrowd': 0}],
    }
    path = folder / 'v3det_2023_v1_category_tree.json'
    path.write_text(json.dumps(tree))
    return document, tree, path


def test_the_category_tree_of_v3det_is_the_hierarchy_and_names_the_classes(tmp_path):
    document, tree, path = v3det_files(tmp_path)
    store, _ = imported(tmp_path, document, hierarchy=path)
    assert store.label_names == ('n1', 'n4', 'n5', 'n3')
    assert store.class_names == ('plant', 'olive (n4)', 'olive (n5)', 'crop')
    assert [store.hierarchy.ancestors(i).tolist() for i in range(4)] == [[], [0, 3], [0, 3], [0]]
    assert store.class_image_counts().tolist() == [1, 1, 0, 1]
    with pytest.raises(AnnotationError, match=r"categories\[2\]: class 'olive' occurs twice"):
        imported(tmp_path, document)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'categoryid2treeid': {'1': 'n1'}}, r"categoryid2treeid: has no node of category 2 'olive'"),
        ({'father2child': {'n0': 'n1'}}, r'father2child\[\.\.\.\]: Expected `array`, got `str`'),
        ({'father2child': {'n0': ['n1', 'n3'], 'n3': ['n4']}}, r"lacks 1 of the 4 classes, first 'n5'"),
    ],
)
def test_an_error_names_the_element_of_a_category_tree(tmp_path, changes, message):
    document, tree, path = v3det_files(tmp_path)
    path.write_text(json.dumps(tree | changes))
    with pytest.raises(AnnotationError, match=rf'v3det_2023_v1_category_tree\.json: {message}'):
        imported(tmp_path, document, hierarchy=path)


def test_images_of_objects365_are_found_as_they_are_unpacked(tmp_path):
    files = ['images/v1/patch8/objects365_v1_00420917.jpg', 'images/v2/patch16/objects365_v2_00908726.jpg']
    document = coco_document()
    document['images'] = [
        {'id': id, 'file_name': name, 'width': 200, 'height': 100} for id, name in zip((30, 10), files)
    ]
    document['categories'] = [{'id': 18, 'name': 'Wine Glass'}, {'id': 3, 'name': 'Wine glass'}]
    path, _ = (save_image(tmp_path / 'train' / name.split('/', 2)[2], (8, 8)) for name in files)
    store, _ = imported(tmp_path, document, images=tmp_path / 'train')
    assert store.file_name(0) == 'patch8/objects365_v1_00420917.jpg' and store.image_id(1) == 'objects365_v2_00908726'
    assert store.class_names == ('Wine Glass', 'Wine glass')
    path.unlink()
    with pytest.raises(AnnotationError, match=r"has no file of 1 of the 2 images, first 'objects365_v1_00420917'"):
        imported(tmp_path, document, images=tmp_path / 'train')


def test_boxes_in_fractions_are_an_error(tmp_path):
    document = coco_document()
    for row in document['annotations']:
        row['bbox'] = [0.25, 0.5, 0.75, 0.5]
    document['annotations'][0]['bbox'] = [0.25, 0.5, 0, 0.5]
    with pytest.raises(AnnotationError, match=r'annotations\[1\]: all boxes are in the first pixel .* multiply them'):
        imported(tmp_path, document)
    document['annotations'][0]['bbox'] = [10, 20, 30, 40]
    assert imported(tmp_path, document)[0].num_boxes == 3


def test_boxes_are_cut_at_the_edges_of_the_image_and_counted(tmp_path):
    inside = [[-10, -10, 30, 30], [190, 90, 20, 10.005], [0, 0, 200.005, 100]]
    outside = [[10, 10, 0, 5], [10, 10, 5, -1], [200, 0, 10, 10], [-50, 0, 50, 10]]
    document = coco_document()
    document['annotations'] = [{'image_id': 30, 'category_id': 3, 'bbox': box} for box in inside + outside]
    store, summary = imported(tmp_path, document)
    assert store.box.tolist() == [[0, 0, 0.1, 0.2], [0.95, 0.9, 1, 1], [0, 0, 1, 1]]
    assert summary.box_rows == 7
    assert summary.dropped == {'boxes without area': 2, 'boxes outside the image': 2}
    assert summary.changed == {'boxes cut at the edges of the image': 2}
    assert [place.rpartition(': ')[2] for place in summary.first.values()] == [f'annotations[{i}]' for i in (3, 5, 0)]


def test_ids_are_the_same_as_numbers_and_as_texts(tmp_path):
    document = coco_document()
    store, _ = imported(tmp_path, document)
    document['categories'][1]['id'], document['images'][1]['pos_category_ids'] = '3', ['018', '3']
    document['images'][0]['id'] = '30'
    for row, (image_id, category_id) in zip(document['annotations'], ((30.0, '18'), ('10', 3), ('0030', '3'))):
        row |= {'image_id': image_id, 'category_id': category_id}
    other, _ = imported(tmp_path, document)
    assert (other.box_label == store.box_label).all() and (other.box_stop == store.box_stop).all()
    assert (other.image_label == store.image_label).all()
    document['categories'][0]['id'] = 3
    with pytest.raises(AnnotationError, match=r'categories\[1\]\.id: 3 is that of .*categories\[0\] too'):
        imported(tmp_path, document)


def test_values_that_nobody_needs_do_not_matter(tmp_path):
    store, _ = imported(tmp_path, coco_document())
    document = coco_document()
    document |= {'info': 'none', 'licenses': float('inf')}
    document['annotations'][0]['area'] = float('nan')
    assert_same(store, imported(tmp_path, document)[0])
    path = write_coco(tmp_path, document)
    path.write_text(path.read_text(), encoding='utf-16')
    import_coco(tmp_path / 'other', annotations=path)
    assert_same(store, AnnotationStore(tmp_path / 'other'))


def test_images_are_found_by_name_and_their_sizes_compared(tmp_path):
    document, images = coco_document(), tmp_path / 'images'
    for name, image in zip(('/far/b.jpg', 'http://host/c', 'train\\d.JPG'), document['images']):
        image['file_name'] = name
    for name, size in (('x/b.jpg', (200, 100)), ('c.jpg', (30, 20)), ('d.png', (10, 10))):
        save_image(images / name, size)
    store, summary = imported(tmp_path, document, images=images)
    assert [store.file_name(i) for i in range(3)] == ['x/b.jpg', 'c.jpg', 'd.png']
    assert np.array([store.width, store.height]).T.tolist() == [[200, 100], [30, 20], [100, 50]]
    assert summary.lines() == [
        'changed: 1 images whose annotated width and height are swapped, corrected by their file, first c.jpg '
        '(30 x 20, annotated 20 x 30)',
        'changed: 1 images whose file has another size than annotated, first d.png (10 x 10, annotated 100 x 50)',
    ]
    (images / 'c.jpg').write_text('no image')
    with pytest.raises(AnnotationError, match=r'(?s)1 of the 3 images cannot be read; .*c\.jpg'):
        imported(tmp_path, document, images=images)


def test_flags_of_any_spelling_are_read(tmp_path):
    document = coco_document()
    first, second, third = document['annotations']
    first |= {'iscrowd': False, 'isoccluded': 1, 'is_depiction': -1}
    second |= {'iscrowd': True, 'istruncated': 0}
    third |= {'iscrowd': None, 'is_group_of': 1.0, 'is_truncated': 'True', 'istruncated': 0}
    store, summary = imported(tmp_path, document)
    assert list(summary.changed.items()) == [('flags that are empty or not written as 1, 0 or -1', 1)]
    assert list(summary.first.values()) == [f'{tmp_path}/instances.json: annotations[2].is_truncated']
    assert store.is_group_of.tolist() == [0, 1, 1]
    assert store.flag('IsOccluded').tolist() == [1, -1, -1]
    assert store.flag('IsTruncated').tolist() == [-1, 1, 0]
    assert store.flag('IsDepiction').tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ('array', 'row', 'changes', 'message'),
    [
        ('annotations', 1, {'category_id': 99}, r'annotations\[1\]\.category_id: 99 is not the id of a category'),
        ('annotations', 2, {'image_id': '31'}, r"annotations\[2\]\.image_id: '31' is not the id of an image"),
        ('annotations', 2, {'bbox': [1, 'x', 2, 3]}, r'annotations\[2\]\.bbox\[1\]: Expected `float`, got `str`'),
        ('annotations', 2, {'bbox': [1, 2, np.nan, 3]}, r'annotations\[2\]: box \[.* nan, .* must be four numbers'),
        ('annotations', 2, {'iscrowd': 2}, r'annotations\[2\]\.iscrowd: Expected `float` <= 1'),
        ('annotations', 2, {'iscrowd': 'many'}, r"annotations\[2\]\.iscrowd: 'many' must be 1, 0 or -1"),
        ('images', 1, {'width': 0}, r'images\[1\]\.width: Expected `float` >= 1'),
        ('images', 1, {'file_name': 'train/b.jpg'}, r"images\[1\]\.file_name: 'train/b\.jpg' is that of .*\[0\] too"),
        ('images', 2, {'neg_category_ids': [18, 4]}, r'images\[2\]\.neg_category_ids: 4 is not the id of a category'),
        ('images', 0, {'openimages_id': 'b'}, r'images\[1\]: has no openimages_id'),
        ('categories', 1, {'name': 'dog'}, r"categories\[1\]: class 'dog' occurs twice"),
        (None, None, {'categories': []}, r'categories: Expected `array` of length >= 1'),
        (None, None, {'categories': [5]}, r'categories\[0\]: Expected `object`, got `int`'),
        (None, None, {'info': {'class_hierarchy': []}}, r"info\.class_hierarchy: expected an object with 'LabelName'"),
        (None, None, {'info': {'class_hierarchy': TREE}}, r"info\.class_hierarchy: lacks 2 of the 2 .*, first 'car'"),
    ],
)
def test_an_error_names_the_file_and_the_element(tmp_path, array, row, changes, message):
    document = coco_document()
    changed = document[array][row] if array else document
    changed |= changes
    with pytest.raises(AnnotationError, match=rf'instances\.json: {message}'):
        imported(tmp_path, document)
    assert not (tmp_path / 'store').exists()


@pytest.fixture()
def store(tmp_path):
    return random_store(tmp_path / 'store', np.random.default_rng(1), confidences=(0, 1, NOT_EXHAUSTIVE))


@pytest.mark.parametrize('chunk', [1, 7, 1 << 16])
def test_a_store_comes_back_from_its_export(tmp_path, monkeypatch, store, chunk):
    monkeypatch.setattr(coco, 'EXPORT_CHUNK', chunk)
    export_coco(store, tmp_path / 'export.json')
    summary = import_coco(tmp_path / 'again', annotations=tmp_path / 'export.json')
    assert summary.dropped == {}
    assert_same(store, AnnotationStore(tmp_path / 'again'))


def test_mmdet_reads_the_same_items_from_the_export(tmp_path, store):
    export_coco(store, tmp_path / 'export.json')
    metainfo = {'classes': store.class_names}
    data = CocoDataset(str(tmp_path / 'export.json'), metainfo=metainfo, data_prefix={'img': 'images'}, pipeline=[])
    assert len(data) == store.num_images
    box = store.box * np.tile(np.stack([store.width, store.height], 1)[store.image_of_box()], 2)
    areas = [row['area'] for row in json.loads((tmp_path / 'export.json').read_text())['annotations']]
    np.testing.assert_allclose(areas, (box[:, 2:] - box[:, :2]).prod(axis=1), rtol=1e-13)
    for i in range(store.num_images):
        item, rows = data.get_data_info(i), store.boxes_of_image(i)
        assert item['img_path'] == f'images/{store.file_name(i)}'
        assert (item['width'], item['height']) == (store.width[i], store.height[i])
        instances = item['instances']
        assert [instance['bbox_label'] for instance in instances] == store.box_label[rows].tolist()
        assert [instance['ignore_flag'] for instance in instances] == (store.is_group_of[rows] == 1).tolist()
        found = np.reshape([instance['bbox'] for instance in instances], (-1, 4))
        np.testing.assert_allclose(found, box[rows], rtol=1e-13)


def test_a_label_that_is_neither_present_nor_absent_is_not_exported(tmp_path):
    store = random_store(tmp_path / 'store', np.random.default_rng(0), confidences=(0, 1, 0.5))
    with pytest.raises(AnnotationError, match=r'store: an image-level label has confidence 0\.5; COCO files hold 0,'):
        export_coco(store, tmp_path / 'export.json')
    assert not list(tmp_path.glob('*export*'))


def test_an_export_is_whole_or_not_there_and_replaces_nothing_unasked(tmp_path, store):
    def stop(what, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_coco(store, tmp_path / 'export.json', progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ['store']
    (tmp_path / 'export.json').write_text('mine')
    with pytest.raises(FileExistsError, match=r'export\.json: exists already; give --overwrite to replace it'):
        export_coco(store, tmp_path / 'export.json')
    assert (tmp_path / 'export.json').read_text() == 'mine'
    export_coco(store, tmp_path / 'export.json', overwrite=True)
    with pytest.raises(FileExistsError, match=r'exists already'):
        export_coco(store, tmp_path / 'store', overwrite=True)


def test_the_tools_go_there_and_back(tmp_path):
    store, _ = converted(tmp_path, write_files(tmp_path / 'official'))
    done = tool('export_coco', store.path, '--out', tmp_path / 'export.json')
    assert '4 images, 5 boxes, 5 classes' in done.stdout
    command = ('import_coco', '--annotations', tmp_path / 'export.json', '--out', tmp_path / 'again')
    tool(*command, '--images', store.image_folder)
    again = AnnotationStore(tmp_path / 'again')
    assert_same(store, again)
    assert again.image_folder.samefile(store.image_folder)
    done = tool(*command, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith('exists already; give --overwrite to replace it')
