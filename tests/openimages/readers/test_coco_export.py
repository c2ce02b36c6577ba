"""AnnotationStore -> COCO JSON files that others read, and back."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmdet.datasets import CocoDataset

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers import coco_export as exporting
from mmoid.openimages.readers.coco import import_coco
from mmoid.openimages.readers.coco_export import export_coco
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.coco_documents import assert_same, random_store
from tests.official_files import write_files

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(('seed', 'chunk'), [(0, 1), (1, 7), (2, 1 << 16)])
def test_a_store_comes_back_from_its_export(tmp_path, monkeypatch, seed, chunk):
    store = random_store(tmp_path / 'store', np.random.default_rng(seed))
    monkeypatch.setattr(exporting, 'CHUNK', chunk)
    export_coco(store, tmp_path / 'export.json')
    summary = import_coco(tmp_path / 'again', annotations=tmp_path / 'export.json')
    assert summary.dropped == {}
    assert_same(store, AnnotationStore(tmp_path / 'again'))


def test_mmdet_reads_the_same_items_from_the_export(tmp_path):
    store = random_store(tmp_path / 'store', np.random.default_rng(1))
    export_coco(store, tmp_path / 'export.json')
    metainfo = {'classes': store.class_names}
    data = CocoDataset(str(tmp_path / 'export.json'), metainfo=metainfo, data_prefix={'img': 'images'}, pipeline=[])
    assert len(data) == store.num_images
    areas = [box['area'] for box in json.loads((tmp_path / 'export.json').read_text())['annotations']]
    sides = (store.box[:, 2:] - store.box[:, :2]) * np.stack([store.width, store.height], 1)[store.image_of_box()]
    np.testing.assert_allclose(areas, sides.prod(axis=1), rtol=1e-13)
    for i in range(store.num_images):
        item, rows = data.get_data_info(i), store.boxes_of_image(i)
        assert item['img_path'] == f'images/{store.file_name(i)}'
        assert (item['width'], item['height']) == (store.width[i], store.height[i])
        instances = item['instances']
        assert [instance['bbox_label'] for instance in instances] == store.box_label[rows].tolist()
        assert [instance['ignore_flag'] for instance in instances] == (store.is_group_of[rows] == 1).tolist()
        expected = store.box[rows] * np.tile([store.width[i], store.height[i]], 2)
        np.testing.assert_allclose(
            np.reshape([instance['bbox'] for instance in instances], (-1, 4)), expected, rtol=1e-13
        )


def test_a_label_that_is_neither_present_nor_absent_is_not_exported(tmp_path):
    store = random_store(tmp_path / 'store', np.random.default_rng(0), confidences=(0, 1, 0.5))
    with pytest.raises(AnnotationError, match=r'store: an image-level label has confidence 0\.5; COCO files'):
        export_coco(store, tmp_path / 'export.json')
    assert not list(tmp_path.glob('*export*'))


def test_an_export_is_whole_or_not_there_and_replaces_nothing_unasked(tmp_path):
    store = random_store(tmp_path / 'store', np.random.default_rng(0))

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
    files = write_files(tmp_path / 'official')
    convert(tmp_path / 'store', **files)

    def tool(name, *arguments):
        command = [sys.executable, ROOT / 'tools/dataset_converters' / name, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    done = tool('export_coco.py', tmp_path / 'store', '--out', tmp_path / 'export.json')
    assert done.returncode == 0, done.stderr
    assert '4 images, 5 boxes, 5 classes' in done.stdout
    inputs = ('--annotations', tmp_path / 'export.json', '--images', files['images'])
    done = tool('import_coco.py', *inputs, '--out', tmp_path / 'again')
    assert done.returncode == 0, done.stderr
    store, again = AnnotationStore(tmp_path / 'store'), AnnotationStore(tmp_path / 'again')
    assert_same(store, again)
    assert again.image_folder.samefile(store.image_folder)
    done = tool('import_coco.py', '--annotations', tmp_path / 'export.json', '--out', tmp_path / 'again')
    assert done.returncode == 1
    assert done.stderr.strip().endswith('exists already; give --overwrite to replace it')
