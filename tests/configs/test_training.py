"""Every config trains: two optimiser steps and a validation, with all its classes, on noise."""

import json
import math
import re
from pathlib import Path

import mmengine.runner.runner
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from mmoid.engine.schedule.hybrid_schedule import stages_of_config
from mmoid.engine.schedule.training_plan import plan_training
from mmoid.synthetic.folder import write_stores
from tests.configs.test_recipes import RECIPES, read, stem
from tests.narrow import narrow
from tests.official_files import tree
from tests.tool_runs import run


def make_root(root, num_classes):
    """A data root: noise in the images, labels by lot; the last class of every eleven is the parent of ten."""
    names = [f'/m/{i:04}' for i in range(num_classes)]
    families = [names[i : i + 11] for i in range(0, num_classes, 11)]
    hierarchy = tree({family[-1]: dict.fromkeys(family[:-1], {}) for family in families})
    annotations = root / 'annotations'
    annotations.mkdir(parents=True)
    (annotations / 'classes-description.csv').write_text(''.join(f'{name},Class {name[3:]}\n' for name in names))
    (annotations / 'label-hierarchy.json').write_text(json.dumps(hierarchy))
    rng = np.random.default_rng(0)
    for split, num_images in (('train', 16), ('validation', 4)):
        folder = root / 'images' / split
        folder.mkdir(parents=True)
        boxes, labels = ['ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf'], ['ImageID,LabelName,Confidence']
        for name in (f'{split}{image:02}' for image in range(num_images)):
            Image.fromarray(rng.integers(0, 255, (120, 160, 3), dtype=np.uint8)).save(folder / f'{name}.jpg')
            for _ in range(6):
                x, y = rng.uniform(0, 0.5, 2)
                width, height = rng.uniform(0.3, 0.5, 2)
                for label in rng.choice(names, rng.integers(1, 3), replace=False):  # one or two labels on the object
                    boxes.append(f'{name},{label},{x},{x + width},{y},{y + height},0')
                    labels.append(f'{name},{label},1')
        for kind, lines in (('bbox', boxes), ('human-imagelabels', dict.fromkeys(labels))):
            (annotations / f'{split}-detection-{kind}.csv').write_text('\n'.join(lines) + '\n')
    write_stores(root)


@pytest.fixture(scope='module', autouse=True)
def data(tmp_path_factory):
    """Data of as many classes as the configs have, where they look for it from the working directory."""
    folder = tmp_path_factory.mktemp('data')
    for name, num_classes in (('openimages', 500), ('openimages-v7', 601), ('synthetic', 37)):
        make_root(folder / 'data' / name, num_classes)
    (folder / 'data' / 'openimages-mini').symlink_to('openimages')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def shortened(cfg, work_dir):
    """Two iterations, one for each of two stages, and a validation of two images, at a tenth of the size."""
    cfg.work_dir = str(work_dir)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        for transform in loader.dataset.pipeline:
            for key in {'scale', 'scales', 'crop_size', 'size'} & transform.keys():
                transform[key] = _tenth(transform[key])
    stages = len(stages_of_config(cfg))
    for stage in range(stages):
        cfg.custom_hooks[0].stages[stage].epochs = 1
    cfg.train_cfg.max_epochs = max(1, stages)
    cfg.train_cfg.val_begin = cfg.train_cfg.max_epochs
    cfg.train_dataloader.dataset.indices = cfg.train_dataloader.batch_size * (1 if stages else 2)
    cfg.val_dataloader.dataset.indices = 2
    cfg.default_hooks.checkpoint = None  # the same for all, and tested elsewhere
    if 'roi_head' not in cfg.model:
        cfg.model.test_cfg.max_per_img = 20  # each is a detection of up to all classes
        if 'num_queries' in cfg.model:
            cfg.model.num_queries = 30  # DINO takes as many places of an image, and these images are small
        return cfg
    cfg.model.train_cfg.rcnn.sampler.num = 64
    cfg.model.train_cfg.rpn_proposal.update(nms_pre=200, max_per_img=200)
    cfg.model.test_cfg.rpn.update(nms_pre=200, max_per_img=20)
    return cfg


def _tenth(size):
    """Of one size, or of each in a list."""
    return [_tenth(one) for one in size] if isinstance(size, list) else tuple(max(64, side // 10) for side in size)


@pytest.fixture(autouse=True)
def short_logs(monkeypatch):
    """Most of the time here would go into asking compilers for their versions and printing the config."""
    monkeypatch.setattr(mmengine.runner.runner, 'collect_env', dict)
    monkeypatch.setattr(Config, 'pretty_text', '')


def train(cfg):
    """Runs it; returns the Runner, and the names of the parameters that have moved."""
    cfg.experiment_name = Path(cfg.work_dir).name  # runs of one name share a log
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.train()
    after = runner.model.state_dict()
    return runner, [name for name, _ in runner.model.named_parameters() if not torch.equal(before[name], after[name])]


def require_two_steps_and_a_validation(cfg):
    runner, moved = train(cfg)
    hub = runner.message_hub
    assert runner.iter == 2
    losses = {key: buffer.data[0] for key, buffer in hub.log_scalars.items() if 'loss' in key}
    two_stage = 'roi_head' in cfg.model
    assert {'train/loss_cls', 'train/loss_bbox', *(['train/loss_rpn_cls'] if two_stage else [])} <= set(losses)
    assert all(math.isfinite(value) for values in losses.values() for value in values)
    for part in ('backbone', 'neck', *(('rpn_head', 'roi_head.bbox_head.fc_cls') if two_stage else ('bbox_head',))):
        assert any(name.startswith(part) for name in moved)
    head = (runner.model.roi_head if two_stage else runner.model).bbox_head
    assert len(head.label_names) == head.loss_cls.num_classes == head.num_classes and head.ancestors.any()
    if two_stage:
        sampler = runner.model.roi_head.bbox_sampler
        assert sampler.num_classes == head.num_classes and sampler.hierarchy == head.hierarchy
    plan = plan_training(cfg, cfg.train_dataloader.dataset.indices)
    assert hub.get_scalar('train/lr').data[0] == pytest.approx(plan.lr)
    if stages_of_config(cfg):
        assert hub.get_scalar('train/stage').data[0].tolist() == [1, 2]
    assert 0 <= hub.get_scalar('val/openimages/mAP').current() <= 1


@pytest.mark.parametrize('path', RECIPES, ids=stem)
def test_every_config_trains_two_steps_and_validates(path, tmp_path):
    cfg = read(path)
    narrow(cfg.model)
    require_two_steps_and_a_validation(shortened(cfg, tmp_path))


def one_of_each_network():
    """A config of each backbone, from weights or from scratch, and data set, as the names tell them."""
    chosen = {}
    for path in RECIPES:
        backbone, dataset = re.search(r'^(?:faster-rcnn_)?(.+?)_.*_([\w-]+)$', stem(path)).groups()
        chosen.setdefault((backbone, '-scratch_' in path, dataset), path)
    return list(chosen.values())


@pytest.mark.slow
@pytest.mark.parametrize('path', one_of_each_network(), ids=stem)
def test_every_network_trains_two_steps_and_validates_at_full_width(path, tmp_path):
    cfg = read(path)
    cfg.model.backbone.init_cfg = None  # a test downloads nothing
    require_two_steps_and_a_validation(shortened(cfg, tmp_path))
