"""Subsets of a store: their content, where their images are, and that all are written or none."""

import numpy as np
import pytest

from mmoid.openimages.readers.csv_files import FLAGS
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store import subset
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.subset import require_writable, subset_stores
from tests.official_files import LABEL_NAMES, write_files


def write_random_store(folder, seed=0, num_images=60):
    """A store of random rows: boxes and image-level labels out of order, unknown flags, images without boxes."""
    rng = np.random.default_rng(seed)
    boxes = ['ImageID,LabelName,XMin,XMax,YMin,YMax,' + ','.join(FLAGS)]
    for _ in range(4 * num_images):
        x, y = np.sort(rng.random(2)), np.sort(rng.random(2))
        flags = ','.join(str(flag) for flag in rng.integers(-1, 2, len(FLAGS)))
        image, name = rng.integers(num_images // 2), rng.choice(LABEL_NAMES[:4])
        boxes.append(f'i{image},{name},{x[0]},{x[1]},{y[0]},{y[1]},{flags}')
    labels = ['ImageID,LabelName,Confidence']
    labels += [f'i{image},{rng.choice(LABEL_NAMES)},{rng.integers(2)}' for image in rng.permutation(num_images)]
    sizes = [f'i{image},{rng.integers(1, 999)},{rng.integers(1, 999)}' for image in range(num_images)]
    files = write_files(folder / 'official', '\n'.join(boxes), '\n'.join(labels), pictures=False)
    (folder / 'sizes.csv').write_text('\n'.join(['image_id,width,height', *sizes]))
    convert(folder / 'store', **(files | {'images': None}), image_sizes=folder / 'sizes.csv')
    return AnnotationStore(folder / 'store')


def write_subset(parent, images, out, made_by=None, overwrite=False):
    (summary,) = subset_stores(parent, {out: np.asarray(images)}, made_by or {}, overwrite)
    return AnnotationStore(out), summary


def image_of(store, image):
    """All that a store knows of one image."""
    boxes, labels = store.boxes_of_image(image), store.labels_of_image(image)
    return {
        'id': store.image_id(image),
        'file': store.file_name(image),
        'size': (store.width[image], store.height[image]),
        'boxes': store.box[boxes].tolist(),
        'label': store.box_label[boxes].tolist(),
        'flags': [store.flag(name)[boxes].tolist() for name in FLAGS],
        'image_label': store.image_label[labels].tolist(),
        'confidence': store.image_label_confidence[labels].tolist(),
    }


@pytest.fixture()
def parent(tmp_path):
    return write_random_store(tmp_path)


@pytest.fixture()
def data(tmp_path):
    """A data root with images: DATA/images and the store DATA/train."""
    files = write_files(tmp_path / 'data')
    convert(tmp_path / 'data' / 'train', **files)
    return tmp_path / 'data'


@pytest.mark.parametrize('seed', range(2))
def test_images_and_class_lists_are_those_of_the_parent(tmp_path, seed):
    parent = write_random_store(tmp_path, seed)
    images = np.random.default_rng(seed).choice(parent.num_images, 25, replace=False)
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
    summary = half.metadata['summary']
    assert (summary['images'], summary['boxes'], summary['box_rows']) == (30, half.num_boxes, parent.num_boxes)
    assert summary['dropped']['images of other subsets or none'] == 30
    less, _ = write_subset(half, np.arange(10), tmp_path / 'less', {'seed': 4})
    assert less.metadata['subset'] == {'parent': 'half', 'parent_images': 30, 'seed': 4, 'parent_subset': made}


@pytest.mark.parametrize('out', ['data/validation', 'data/mini/deep/train'])
def test_a_subset_below_the_data_root_moves_with_it(tmp_path, data, out):
    write_subset(AnnotationStore(data / 'train'), [0, 2], tmp_path / out)
    data.rename(tmp_path / 'moved')
    part = AnnotationStore(tmp_path / out.replace('data', 'moved', 1))
    assert [(part.image_folder / part.file_name(i)).exists() for i in range(2)] == [True, True]


def test_a_subset_elsewhere_finds_its_images_wherever_it_moves(tmp_path, data):
    write_subset(AnnotationStore(data / 'train'), [0, 2], tmp_path / 'mini' / 'train')
    (tmp_path / 'far' / 'away').mkdir(parents=True)
    (tmp_path / 'mini').rename(tmp_path / 'far' / 'away' / 'mini')
    part = AnnotationStore(tmp_path / 'far' / 'away' / 'mini' / 'train')
    assert (part.image_folder / part.file_name(1)).exists()


@pytest.mark.parametrize('out', ['store', '.', 'store/train'])
def test_the_parent_is_never_replaced(tmp_path, parent, out):
    with pytest.raises(ValueError, match='which is read; give another --out'):
        write_subset(parent, np.arange(3), tmp_path / out, overwrite=True)
    assert AnnotationStore(parent.path).num_images == 60


def test_only_a_store_is_replaced_and_only_with_overwrite(tmp_path, parent):
    write_subset(parent, np.arange(3), tmp_path / 'part')
    with pytest.raises(FileExistsError, match='exists already; give --overwrite'):
        write_subset(parent, np.arange(4), tmp_path / 'part')
    assert write_subset(parent, np.arange(4), tmp_path / 'part', overwrite=True)[0].num_images == 4
    (tmp_path / 'notes').mkdir()
    (tmp_path / 'notes' / 'thesis.txt').write_text('years of work')
    with pytest.raises(FileExistsError, match='was not written by mmoid'):
        require_writable(parent, [tmp_path / 'part', tmp_path / 'notes'], overwrite=True)


def test_no_subset_is_written_if_one_fails(tmp_path, monkeypatch, parent):
    out = tmp_path / 'mini'
    write_store = subset.write_store

    def fail_at_the_second(folder, content, metadata):
        if 'validation' in folder.name:
            raise OSError('No space left on device')
        write_store(folder, content, metadata)

    monkeypatch.setattr(subset, 'write_store', fail_at_the_second)
    with pytest.raises(OSError, match='No space'):
        subset_stores(parent, {out / 'train': np.arange(30), out / 'validation': np.arange(30, 40)}, {})
    assert not list(out.iterdir())
