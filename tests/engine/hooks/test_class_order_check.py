"""ClassOrderCheckHook on a real Runner and box head."""

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.official_csv import convert
from mmoid.openimages.statistics.concurrent_rates import load_rates, save_rates

CONFIG = 'configs/openimages/faster-rcnn_r18-small_fpn_2xb4-hybrid-3e-2e_openimages.py'


def runner(monkeypatch, data_root, work_dir, num_classes, **options):
    monkeypatch.setenv('MMOID_DATA_ROOT', str(data_root))
    monkeypatch.setenv('MMOID_NUM_CLASSES', str(num_classes))
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False, **options})
    cfg.work_dir, cfg.launcher, cfg.log_level = str(work_dir), 'none', 'WARNING'
    cfg.experiment_name = f'{work_dir.name}-{len(DefaultScope._instance_dict)}'
    return Runner.from_cfg(cfg)


def test_rates_in_another_order_than_the_data_are_refused_before_the_first_iteration(monkeypatch, tiny_data, tmp_path):
    rates, names = load_rates(tiny_data / 'concurrent_rates.npz')
    turned = np.roll(np.arange(len(names)), 1)
    save_rates(tmp_path / 'turned.npz', rates[np.ix_(turned, turned)], tuple(names[i] for i in turned))
    loss = 'model.roi_head.bbox_head.loss_cls'
    run = runner(
        monkeypatch,
        tiny_data,
        tmp_path,
        len(names),
        **{f'{loss}.concurrent_rates': str(tmp_path / 'turned.npz'), f'{loss}.hierarchy': None},
    )
    with pytest.raises(
        AnnotationError, match=r'classes of model\..*bbox_head differ from.* in names or order: class 0 is'
    ):
        run.train()


def test_another_number_of_classes_than_the_data_is_refused(monkeypatch, tiny_data, tmp_path):
    options = {
        'model.roi_head.bbox_head.loss_cls.concurrent_rates': None,
        'model.roi_head.bbox_head.loss_cls.hierarchy': None,
        'model.train_cfg.rcnn.sampler.hierarchy': None,
    }
    run = runner(monkeypatch, tiny_data, tmp_path, 7, **options)
    with pytest.raises(AnnotationError, match=r'bbox_head\.num_classes is 7, the training set has \d+ classes'):
        run.train()


def test_rates_of_the_wrong_shape_are_refused_when_the_model_is_built(monkeypatch, tiny_data, tmp_path):
    with pytest.raises(ValueError, match=r'loss_cls\.(concurrent_rates: has shape|hierarchy: is for)'):
        runner(monkeypatch, tiny_data, tmp_path, 7)


def test_a_validation_set_in_another_order_is_refused_before_the_first_iteration(monkeypatch, tiny_data, tmp_path):
    annotations = tiny_data / 'annotations'
    lines = (annotations / 'classes-description.csv').read_text().splitlines()
    (tmp_path / 'turned.csv').write_text('\n'.join(lines[::-1]))
    convert(
        tmp_path / 'validation',
        boxes=annotations / 'validation-detection-bbox.csv',
        classes=tmp_path / 'turned.csv',
        hierarchy=annotations / 'label-hierarchy.json',
        images=tiny_data / 'images' / 'validation',
    )
    options = {
        'val_dataloader.dataset.ann_file': str(tmp_path / 'validation'),
        'val_evaluator.ann_file': str(tmp_path / 'validation'),
        # A model that knows no classes: the data sets must be compared.
        'model.roi_head.bbox_head.loss_cls.type': 'SoftmaxLoss',
        'model.roi_head.bbox_head.loss_cls.hierarchy': None,
    }
    run = runner(monkeypatch, tiny_data, tmp_path, len(lines), **options)
    with pytest.raises(
        AnnotationError, match=r'training set differ from those of the validation set in names or order: class 0'
    ):
        run.train()
