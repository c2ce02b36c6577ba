"""browse_dataset and show_predictions, and what they draw."""

import shutil
from itertools import islice

import numpy as np
import pytest
from matplotlib.colors import to_hex
from mmengine.config import Config
from PIL import Image

import mmoid.registry  # noqa: F401
from mmoid.engine.schedule.stage_samples import MARK, MarkGroupOf, stage_items
from mmoid.openimages.metric.annotations import annotations_of_store
from mmoid.openimages.metric.evaluator import Evaluator
from mmoid.openimages.predictions.csv_files import open_predictions
from mmoid.openimages.predictions.prediction_store import align_predictions
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.visualization.label_sets import GREEN, GREY, RED, ImageReader, draw_mistakes, draw_training_items
from tests.box_stores import BENCH, make_store
from tests.official_files import save_image
from tests.openimages.predictions import prediction_cases
from tests.openimages.predictions.prediction_cases import Row
from tests.tool_runs import ROOT, SMALL_CONFIG, data_environment, tool

CONFIG = ROOT / SMALL_CONFIG


@pytest.fixture
def cfg(tiny_data, monkeypatch):
    for name, value in data_environment(tiny_data).items():
        monkeypatch.setenv(name, value)
    cfg = Config.fromfile(CONFIG)
    cfg.model.train_cfg.rcnn.sampler.ancestors = True
    return cfg


def test_items_are_what_the_sampler_and_the_pipeline_of_the_stage_give(cfg, tiny_data):
    store = AnnotationStore(tiny_data / 'train')
    cfg.model.data_preprocessor.bgr_to_rgb = False  # as in RTMDet, which learns from BGR
    fed = stage_items(cfg, 'soft balance')
    assert (fed.sampler, fed.epoch, fed.stage.name) == ('SoftBalanceClassAwareSampler', 3, 'soft balance')
    index = {name: i for i, name in enumerate(store.image_ids())}
    ancestors = store.hierarchy.ancestor_matrix
    for item in islice(fed.items, 12):
        image = index[item.title.split()[0]]
        rows = store.boxes_of_image(image)
        file = np.asarray(Image.open(store.image_folder / store.file_name(image)))
        assert np.allclose(item.image.mean(axis=(0, 1)), file.mean(axis=(0, 1)), atol=2), 'in RGB'
        assert max(item.image.shape) == 160, 'resized by the pipeline'
        assert item.label.tolist() == store.box_label[rows].tolist()
        assert item.group_of.tolist() == (store.is_group_of[rows] == 1).tolist()
        for label, label_set in zip(item.label, item.label_set):
            assert label_set[label] and label_set[ancestors[label]].all()
        same, flipped = item.box, np.stack([1 - item.box[:, 2], 1 - item.box[:, 0]], axis=1)
        assert np.allclose(same, store.box[rows], atol=0.01) or np.allclose(flipped, store.box[rows, ::2], atol=0.01)
    natural = stage_items(cfg, '1')
    assert natural.sampler == 'DefaultSampler' and natural.epoch == 0


def test_images_are_turned_as_in_training(cfg, tiny_data, tmp_path):
    images = shutil.copytree(tiny_data / 'images' / 'train', tmp_path / 'images')
    for path in images.iterdir():
        save_image(path, (90, 60), turned=True)
    cfg.train_dataloader.dataset.data_prefix = dict(img=str(images))
    cfg.train_dataloader.dataset.pipeline[0].color_type = 'color'
    height, width, _ = next(stage_items(cfg).items).image.shape
    assert width > height, 'as stored, as the boxes of the official files need it'


def test_ignored_group_of_boxes_are_grey_and_dashed_and_lists_name_ancestors(cfg):
    cfg.train_dataloader.dataset.group_of = 'ignore'
    fed = stage_items(cfg)
    item = next(item for item in islice(fed.items, 40) if item.ignored.any())
    assert (item.group_of == item.ignored).all() and not item.ignored.all()
    (ax,) = draw_training_items([item], fed.class_names, 'title', fed.same_object_iou).axes
    dashed = [patch for patch in ax.patches if patch.get_linestyle() != 'solid']
    assert 0 < len(dashed) <= item.ignored.sum() and {to_hex(p.get_edgecolor()) for p in dashed} == {GREY}
    texts = '\n'.join(text.get_text() for text in ax.texts)
    assert texts.count(', ignored') == item.ignored.sum() and '↑ ' in texts


def test_label_sets_of_a_dense_head_have_the_ancestors_that_it_asks_for(cfg):
    (dense,) = map(Config.fromfile, ROOT.glob('configs/label_sets/retinanet_r50*'))
    dense.model.bbox_head.sets_with_ancestors = True
    item = next(stage_items(dense).items)
    assert item.label_set.sum() > len(item.label)


def test_an_unknown_group_of_flag_marks_no_box():
    results = dict(instances=[{'is_group_of': flag} for flag in (1, 0, -1)] + [{}], gt_bboxes_labels=np.arange(4))
    assert MarkGroupOf()(results)['gt_bboxes_labels'].tolist() == [MARK, 1, 2, 3]


def test_an_unknown_stage_or_epoch_is_an_error(cfg):
    with pytest.raises(ValueError, match=r'the config has the stages 1 \(natural\), 2 \(soft balance\)'):
        stage_items(cfg, 'third')
    with pytest.raises(ValueError, match="stage 'natural' has epochs 0 to 2"):
        stage_items(cfg, '1', 4)


def test_browse_dataset_draws_all_images_and_lists_those_that_cannot_be_read(cfg, tiny_data, tmp_path):
    images = shutil.copytree(tiny_data / 'images' / 'train', tmp_path / 'images')
    for k, path in enumerate(sorted(images.iterdir())):
        if k % 2:
            path.write_bytes(b'' if k % 4 == 1 else b'no image')
    place = f'train_dataloader.dataset.data_prefix.img={images}'
    options = ('--stage', 2, '--number', 10, '--out', tmp_path / 'out', '--cfg-options', place)
    done = tool('browse_dataset', CONFIG, *options, check=False)
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {f'soft-balance-epoch3-00{k}.png' for k in (0, 1)}
    first, *listed = done.stderr[done.stderr.index('error: ') :].splitlines()
    assert done.returncode == 1 and first == f'error: {len(listed)} images cannot be read:' and 2 <= len(listed) < 10
    assert all(line.startswith(f'{images}/') and line.endswith(')') for line in listed)


@pytest.fixture
def predicted(tiny_data, tmp_path):
    """A CSV with every second box of six images and a false box in each, whose ids have folder and extension."""
    store = AnnotationStore(tiny_data / 'validation')
    lines = ['ImageID,LabelName,Score,XMin,YMin,XMax,YMax', f'nowhere.jpg,{store.label_names[0]},1,0,0,1,1']
    for image in range(6):
        rows = np.r_[store.boxes_of_image(image)][::2]
        for row, score, box in [*((row, 0.9, store.box[row]) for row in rows), (rows[0], 0.6, (0, 0, 0.02, 0.02))]:
            name = f'val/{store.image_id(image)}.jpg,{store.label_names[store.box_label[row]]}'
            lines.append(f'{name},{score},{",".join(map(str, box))}')
    (tmp_path / 'rows.csv').write_text('\n'.join(lines))
    return store, tmp_path / 'rows.csv'


@pytest.mark.parametrize('threshold, some_found', [(0.3, True), (0.95, False)])
def test_found_missed_and_false_boxes_have_their_colours(predicted, threshold, some_found):
    store, path = predicted
    predictions, _ = align_predictions(open_predictions(path, store.classes), store.image_ids(), store.classes)
    truth = Evaluator(annotations_of_store(store)).ground_truth
    label = int(store.box_label[0])
    left, right = draw_mistakes(ImageReader(store), truth, predictions, label, [0], 'title', threshold).axes
    colours = [to_hex(patch.get_edgecolor()) for patch in left.patches]
    assert colours.count(GREEN) + colours.count(RED) == ((truth.image == 0) & (truth.label == label)).sum()
    assert (GREEN in colours) == some_found
    assert (RED in [to_hex(patch.get_edgecolor()) for patch in right.patches]) == some_found
    assert ('0.60 false' in [text.get_text() for text in right.texts]) == some_found


def test_a_group_is_found_by_the_threshold_of_the_metric(tmp_path):
    store = make_store(tmp_path, [(0, BENCH, (0, 0, 0.5, 1), 1)])
    found = prediction_cases.make_store(tmp_path / 'found', [Row('b1', BENCH, 0.9, (0.3, 0, 0.8, 1))], ['b1'])
    truth = Evaluator(annotations_of_store(store)).ground_truth
    for iou_threshold, colour in ((0.3, GREEN), (0.5, RED)):
        axes = draw_mistakes(ImageReader(store), truth, found, BENCH, [0], 'title', iou_threshold=iou_threshold).axes
        assert to_hex(axes[0].patches[0].get_edgecolor()) == colour


def test_show_predictions_draws_the_worst_classes_first_and_names_what_it_leaves_out(predicted, tmp_path):
    store, path = predicted
    with path.open('a') as stream:
        stream.write('\na,/m/other,1,0,0,1,1\n')
    copy = shutil.copytree(store.path, tmp_path / 'store')  # without its images
    options = ('--store', copy, '--predictions', path, '--out', tmp_path / 'out')
    done = tool('show_predictions', *options, '--classes', 2, '--number', 2)
    sheets = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert [name[:4] for name in sheets] == ['000-', '001-'] and all(name in done.stdout for name in sheets)
    assert f'{path}: 1 left out: of other classes (first: /m/other)' in done.stdout
    assert f'{path}: 1 left out: on images that are not annotated (first: nowhere)' in done.stdout
    assert f'not readable, drawn grey: {copy}/' in done.stdout and 'No such file' in done.stdout
