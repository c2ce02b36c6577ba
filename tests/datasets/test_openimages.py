"""OpenImagesHierarchyDataset, with mmdet's own pipeline, loader and wrappers."""

import os
import pickle
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner import Runner

import mmoid
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.readers.coco import import_coco
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.coco_documents import coco_document, write_coco
from tests.official_files import BOXES, save_image, tree, write_files

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.Resize', scale=(64, 64), keep_ratio=True),
    dict(type='mmdet.PackDetInputs'),
]


@pytest.fixture()
def store(tmp_path):
    convert(tmp_path / 'store', **write_files(tmp_path / 'official'))
    return str(tmp_path / 'store')


def dataset(store, **kwargs):
    return mmoid.OpenImagesHierarchyDataset(store, **kwargs)


def test_an_item_is_what_mmdet_expects(store):
    item = dataset(store).get_data_info(0)
    assert item['img_id'] == 'b1' and os.path.exists(item['img_path'])
    assert (item['width'], item['height'], item['sample_idx']) == (200, 100, 0)
    box = dict(bbox=[20.0, 20.0, 100.0, 60.0], bbox_label=0)
    assert item['instances'][0] == dict(box, ignore_flag=0, is_group_of=0)
    assert [instance['is_group_of'] for instance in item['instances']] == [0, 0, -1]
    assert item['image_level_labels'].tolist() == [0, 4]
    assert item['confidences'].tolist() == [1, 0]
    metainfo = dataset(store).metainfo
    assert metainfo['classes'] == ('Apple', 'Orange', 'Fruit', 'Bench (/m/bench1)', 'Bench (/m/bench2)')
    assert metainfo['label_names'] == ('/m/apple', '/m/orange', '/m/fruit', '/m/bench1', '/m/bench2')


def test_a_class_with_objects_without_a_box_is_no_negative(tmp_path):
    document = coco_document()
    document['images'][0]['not_exhaustive_category_ids'] = [18]  # dog; the image has a dog and a car
    for image in document['images']:
        save_image(tmp_path / image['file_name'], (8, 8))
    import_coco(tmp_path / 'store', annotations=write_coco(tmp_path, document), images=tmp_path)
    records = dataset(str(tmp_path / 'store')).data_list
    assert [records.verified_classes(i).tolist() for i in range(3)] == [[1], [0, 1], [0, 1]]
    hierarchy = ClassHierarchy(tree({'car': {'dog': {}}}), ('dog', 'car'))
    assert replace(records, hierarchy=hierarchy).verified_classes(0).tolist() == [], 'nor are its ancestors'


def test_images_are_loaded_as_their_boxes_fit_whatever_the_pipeline_says(store, tmp_path):
    """Case 17: those of the official files as stored, others as their EXIF orientation turns them."""
    for path in (Path(dataset(store)[0]['img_path']), tmp_path / 'train/b.jpg'):
        save_image(path, (200, 100), turned=True)
    document = coco_document()
    document['images'] = [dict(document['images'][0], width=100, height=200)]
    document['annotations'] = document['annotations'][:1]
    coco = tmp_path / 'coco'
    (tmp_path / 'drawn.csv').write_text('LabelName\ndog\n')
    import_coco(
        coco, annotations=write_coco(tmp_path, document), images=tmp_path, annotated_classes=tmp_path / 'drawn.csv'
    )
    for color_type in ('color', 'color_ignore_orientation'):
        pipeline = [dict(type='LoadImageFromFile', color_type=color_type)]
        assert dataset(store, pipeline=pipeline)[0]['img'].shape == (100, 200, 3)
        assert dataset(str(coco), pipeline=pipeline)[0]['img'].shape == (200, 100, 3)


@pytest.mark.parametrize('classes', [['Fruit', 'Apple'], ['/m/fruit', '/m/apple']])
def test_some_of_the_classes_in_any_order(store, classes):
    part = dataset(store, metainfo=dict(classes=classes))
    assert part.metainfo['label_names'] == ('/m/fruit', '/m/apple')
    assert part.get_cat_ids(0) == [1, 1]
    assert part.get_cat_ids(1) == []
    assert part.class_image_counts().tolist() == [2, 1]
    assert part.class_image_counts(expand_hierarchy=False).tolist() == [1, 1]
    assert part.get_data_info(0)['image_level_labels'].tolist() == [1]


@pytest.mark.parametrize(('group_of', 'flags'), [('keep', [0]), ('ignore', [1]), ('drop', [])])
def test_group_of_boxes(store, group_of, flags):
    data = dataset(store, group_of=group_of)
    assert [instance['ignore_flag'] for instance in data.get_data_info(1)['instances']] == flags
    assert data.class_image_counts()[3] == (1 if group_of == 'keep' else 0)
    filtered = dataset(store, group_of=group_of, filter_cfg=dict(filter_empty_gt=True))
    assert len(filtered) == (3 if group_of == 'keep' else 2)


def test_filters_hold_in_training_only(store):
    filters = dict(filter_empty_gt=True, min_size=70)
    assert [dataset(store, filter_cfg=filters).get_data_info(i)['img_id'] for i in range(2)] == ['b1', 'a0']
    assert len(dataset(store, filter_cfg=filters)) == 2
    assert len(dataset(store, filter_cfg=filters, test_mode=True)) == 4


def test_image_lists_follow_subsets_and_repetitions(tiny_data):
    whole = dataset(str(tiny_data / 'train'))
    chosen = [7, 3, 40, 3, 11]
    for part in (whole.get_subset(chosen), dataset(str(tiny_data / 'train'), indices=chosen)):
        assert [part.get_data_info(i)['img_id'] for i in range(5)] == [whole.get_data_info(i)['img_id'] for i in chosen]
        for expand in (False, True):
            for label in range(len(part.metainfo['classes'])):
                expected = [i for i, j in enumerate(chosen) if j in whole.image_indices_of_class(label, expand)]
                assert part.image_indices_of_class(label, expand).tolist() == expected
                assert part.class_image_counts(expand)[label] == len(expected)
    whole.get_subset_(4)
    assert len(whole) == 4 and set(whole.class_images()[1].tolist()) <= set(range(4))
    assert len(dataset(str(tiny_data / 'train'), indices=-3)) == 3


def test_a_test_set_keeps_images_without_boxes_and_gives_the_metric_what_it_needs(store):
    keys = ('img_id', 'ori_shape', 'instances', 'image_level_labels')
    pipeline = [*PIPELINE[:-1], dict(type='mmdet.PackDetInputs', meta_keys=keys)]
    filters = dict(filter_empty_gt=True, min_size=1000)
    data = dataset(store, test_mode=True, filter_cfg=filters, pipeline=pipeline)
    samples = [data[i]['data_samples'] for i in range(len(data))]
    assert [sample.img_id for sample in samples] == ['b1', 'a0', 'c2', 'd3']
    assert samples[3].instances == [] and samples[3].image_level_labels.tolist() == [1]


def test_spawned_loader_workers_give_images_and_boxes(tiny_data):
    data = dict(type='mmoid.OpenImagesHierarchyDataset', ann_file=str(tiny_data / 'train'), pipeline=PIPELINE)
    sampler = dict(type='DefaultSampler', shuffle=True)
    workers = dict(batch_size=4, num_workers=2, multiprocessing_context='spawn')
    loader = Runner.build_dataloader(dict(**workers, sampler=sampler, dataset=data), seed=0)
    seen = []
    for batch in loader:
        assert all(image.shape[0] == 3 for image in batch['inputs'])
        for sample in batch['data_samples']:
            boxes = sample.gt_instances.bboxes.tensor
            assert ((boxes >= -1e-3) & (boxes <= 64 + 1e-3)).all()
            seen.append(sample.img_id)
    assert sorted(seen) == sorted(AnnotationStore(tiny_data / 'train').image_ids())


def test_the_data_set_pickles_without_its_annotations(tiny_data):
    data = dataset(str(tiny_data / 'train'), group_of='drop')
    assert len(data.class_images()[1])
    assert len(pickle.dumps(data)) < 10_000
    assert pickle.loads(pickle.dumps(data)).get_data_info(5)['img_id'] == data.get_data_info(5)['img_id']


def test_a_box_below_a_pixel_is_no_training_target_but_stays_for_the_metric(tmp_path):
    """Case 02."""
    boxes = BOXES.replace('a0,/m/bench1,0.0,1.0', 'a0,/m/bench1,0.3,0.3') + 'b1,/m/fruit,0.1,0.9,0.5,0.509,0\n'
    convert(tmp_path / 'store', **write_files(tmp_path / 'official', boxes=boxes))
    store = str(tmp_path / 'store')
    data = dataset(store)
    assert [len(data.get_data_info(i)['instances']) for i in range(4)] == [3, 0, 1, 0]
    assert [data.get_cat_ids(i) for i in range(4)] == [[0, 1, 0], [], [2], []]
    assert data.class_image_counts(expand_hierarchy=False).tolist() == [1, 1, 1, 0, 0]
    assert len(dataset(store, filter_cfg=dict(filter_empty_gt=True))) == 2
    tested = dataset(store, test_mode=True)
    assert [len(tested.get_data_info(i)['instances']) for i in range(4)] == [4, 1, 1, 0]
    assert tested.class_image_counts(expand_hierarchy=False).tolist() == [1, 1, 2, 1, 0]


def test_images_are_looked_for_through_the_file_backend_of_their_prefix(store):
    asked = []

    @register_backend('bucket', prefixes='bucket', force=True)
    class Bucket(LocalBackend):
        def exists(self, path):
            asked.append(path)
            return 'train' in path

    assert len(dataset(store, data_prefix=dict(img='bucket://train'))) == 4
    assert asked == [f'bucket://train/{name}.jpg' for name in ('b1', 'a0', 'c2', 'd3')]
    with pytest.raises(AnnotationError, match=r'bucket://x/b1\.jpg: no such image .*; 4 of 4 looked for are missing'):
        dataset(store, data_prefix=dict(img='bucket://x'))


def test_a_worker_does_not_open_a_store_that_was_replaced(tmp_path, store):
    data = dataset(store)
    pickled, first = pickle.dumps(data), data.get_data_info(0)
    boxes = BOXES + 'd3,/m/orange,0,1,0,1,0\n'
    convert(store, **write_files(tmp_path / 'official', boxes=boxes), overwrite=True)
    again = data.get_data_info(0)
    assert again['instances'] == first['instances'], 'the process that has it open keeps the old one'
    with pytest.raises(AnnotationError, match='store: was replaced while it was in use; start again'):
        pickle.loads(pickled)


def test_an_official_csv_is_converted_once(tmp_path):
    files = write_files(tmp_path)
    for folder, key in (('boxes', 'boxes'), ('labels', 'image_labels')):  # two files of one name
        (tmp_path / folder).mkdir()
        shutil.move(files[key], tmp_path / folder / 'train.csv')
    made = tmp_path / 'boxes' / 'train.csv.store'

    def open_csv(labels='labels/train.csv', label_file='classes.csv'):
        files = dict(image_level_ann_file=labels, label_file=label_file, hierarchy_file='hierarchy.json')
        return dataset('boxes/train.csv', data_root=str(tmp_path), data_prefix=dict(img='images'), **files)

    def time_made():
        return (made / 'metadata.json').stat().st_mtime_ns

    assert len(open_csv()) == 4
    before = time_made()
    assert len(open_csv()) == 4 and time_made() == before
    assert len(open_csv(labels=None)) == 3 and time_made() > before, 'without image-level labels it is another store'
    assert len(open_csv()) == 4
    time.sleep(0.01)
    with open(tmp_path / 'boxes' / 'train.csv', 'a') as stream:
        stream.write('d3,/m/orange,0,1,0,1,0\n')
    assert open_csv().class_image_counts().tolist() == [1, 2, 3, 1, 0]
    lock = made.with_name('.train.csv.store.lock')
    lock.unlink()
    lock.mkdir()  # cannot be opened, as on a read-only disk (case 19)
    assert open_csv().class_image_counts().tolist() == [1, 2, 3, 1, 0]
    made.rename(tmp_path / 'gone')
    with pytest.raises(OSError, match=r'cannot take the store of .*train\.csv .*; make it elsewhere with'):
        open_csv()
    lock.rmdir()
    (tmp_path / 'gone').rename(made)
    for name, text in (('metadata.json', '{"format": "mmoid-annotations", "version": 0}'), ('boxes.arrow', 'half')):
        (made / name).write_text(text)
        assert open_csv().class_image_counts().tolist() == [1, 2, 3, 1, 0]
    with pytest.raises(ValueError, match=r'dataset\.label_file: is needed to read .*train\.csv'):
        open_csv(label_file=None)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(metainfo=dict(classes=['Pear'])), r"metainfo\.classes: 'Pear' is not a class of"),
        (dict(group_of='x'), r"dataset\.group_of must be one of keep, ignore, drop, got 'x'"),
        (dict(filter_cfg=dict(min_size=1000)), r'none of the 4 images of .*store is left; check dataset\.filter_cfg'),
        (dict(proposal_file='a.pkl'), r'dataset\.proposal_file = .*a\.pkl: pickled proposals are not read'),
    ],
)
def test_bad_options_are_errors(store, options, message):
    with pytest.raises(ValueError, match=message):
        dataset(store, **options)


def test_the_caller_may_change_an_item(store):
    data = dataset(store)
    item = data.get_data_info(-4)
    assert item['sample_idx'] == 0
    item['instances'].clear()
    assert len(data.get_data_info(0)['instances']) == 3
    assert np.asarray(data.get_data_info(np.int64(0))['width']) == 200


def test_a_lazy_data_set_opens_at_first_use(store):
    data = dataset(store, lazy_init=True, indices=[2, 0])
    assert not hasattr(data, 'store')
    assert len(data) == 2 and data.get_data_info(0)['img_id'] == 'c2'
    assert dataset(store, lazy_init=True).class_image_counts().tolist() == [1, 1, 2, 1, 0]
    assert dataset(store, lazy_init=True).get_subset(1).get_cat_ids(0) == [0, 1, 0]
