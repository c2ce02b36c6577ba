"""AnnotationStore -> COCO JSON files that others read, and back."""

import json

import numpy as np
import pytest
from mmdet.datasets import CocoDataset

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers import coco
from mmoid.openimages.readers.coco import export_coco, import_coco
from mmoid.openimages.store.annotation_store import NOT_EXHAUSTIVE, AnnotationStore
from tests.coco_documents import assert_same, random_store
from tests.official_files import converted, write_files
from tests.tool_runs import tool


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
