"""Subsets of a store: their content, where their images are, and that all are written or none."""

import numpy as np
import pytest

from mmoid.openimages.readers.csv_files import FLAGS
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store import writing
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.writing import subset_stores
from tests.coco_documents import random_store
from tests.official_files import write_files


def write_subset(parent, images, out, made_by=None, overwrite=False):
    (summary,) = subset_stores(parent, {out: np.asarray(images)}, made_by or {}, overwrite)
    return AnnotationStore(out), summary


def image_of(store, image):
    """All that a store knows of one image."""
    boxes, labels = store.boxes_of_image(image), store.labels_of_image(image)
    columns = [store.box, store.box_label, *(store.flag(name) for name in FLAGS)]
    label_columns = [store.image_label, store.image_label_confidence]
    return [
        (store.image_id(image), store.file_name(image), store.width[image], store.height[image]),
        [column[boxes].tolist() for column in columns],
        [column[labels].tolist() for column in label_columns],
    ]


@pytest.fixture()
def parent(tmp_path):
    return random_store(tmp_path / 'store', np.random.default_rng(0), num_images=60)


def test_images_and_class_lists_are_those_of_the_parent(tmp_path, parent):
    images = np.random.default_rng(0).choice(parent.num_images, 25, replace=False)
    part, summary = write_subset(parent, images, tmp_path / 'part')
    assert part.num_images == summary.images == 25
    images = np.sort(images)
    assert [image_of(part, i) for i in range(25)] == [image_of(parent, i) for i in images]
    assert part.classes.label_names == parent.label_names and part.class_names == parent.class_names
    assert (part.hierarchy.ancestor_matrix == parent.hierarchy.ancestor_matrix).all()
    for expand in (False, True):
        for label in range(parent.num_classes):
            kept = np.intersect1d(parent.images_of_class(label, expand), images)
            assert images[part.images_of_class(label, expand)].tolist() == kept.tolist()
    assert part.image_folder is None


def test_the_metadata_name_the_parent_and_its_parent(tmp_path, parent):
    half, _ = write_subset(parent, np.arange(30), tmp_path / 'half', {'seed': 3, 'sizes': {'half': 30}})
    assert half.metadata['sources'] == parent.metadata['sources']
    made = {'parent': 'store', 'parent_images': 60, 'seed': 3, 'sizes': {'half': 30}}
    assert half.metadata['subset'] == made
    less, _ = write_subset(half, np.arange(10), tmp_path / 'less', {'seed': 4})
    assert not less.upright
    parent.metadata['upright'] = True
    assert write_subset(parent, [0], tmp_path / 'turned')[0].upright
    assert less.metadata['subset'] == {'parent': 'half', 'parent_images': 30, 'seed': 4, 'parent_subset': made}


@pytest.mark.parametrize(
    ('out', 'moves'), [('data/validation', 'data'), ('data/mini/deep/train', 'data'), ('mini/train', 'mini')]
)
def test_a_subset_finds_its_images_when_the_data_root_or_it_alone_moves(tmp_path, out, moves):
    convert(tmp_path / 'data' / 'train', **write_files(tmp_path / 'data'))
    write_subset(AnnotationStore(tmp_path / 'data' / 'train'), [0, 2], tmp_path / out)
    (tmp_path / 'far').mkdir()
    (tmp_path / moves).rename(tmp_path / 'far' / moves)
    part = AnnotationStore(tmp_path / 'far' / out)
    assert [(part.image_folder / part.file_name(i)).exists() for i in range(2)] == [True, True]


@pytest.mark.parametrize('out', ['store', '.', 'store/train'])
def test_the_parent_is_never_replaced(tmp_path, parent, out):
    with pytest.raises(ValueError, match='which is read; give another --out'):
        write_subset(parent, np.arange(3), tmp_path / out, overwrite=True)
    assert AnnotationStore(parent.path).num_images == 60


def test_no_subset_is_written_if_one_fails(tmp_path, monkeypatch, parent):
    out = tmp_path / 'mini'
    write_store = writing.write_store

    def fail_at_the_second(folder, content, metadata):
        if 'validation' in folder.name:
            raise OSError('No space left on device')
        write_store(folder, content, metadata)

    monkeypatch.setattr(writing, 'write_store', fail_at_the_second)
    with pytest.raises(OSError, match='No space'):
        subset_stores(parent, {out / 'train': np.arange(30), out / 'validation': np.arange(30, 40)}, {})
    assert not list(out.iterdir())
