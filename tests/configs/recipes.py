"""The configs of the project, and the changes that let a laptop run them."""

import re
from pathlib import Path

from mmengine.config import Config

from mmoid.engine.schedule.hybrid_schedule import stages_of_config

ROOT = Path(__file__).parents[2]
RECIPES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob('configs/[!_]*/*.py'))
# Those with the paper's protocol; the small ones are for a laptop, those of label sets have other detectors.
PAPER_RECIPES = [path for path in RECIPES if '-small_' not in path and 'label_sets/' not in path]


def one_of_each_network():
    """A config of each backbone, from weights or from scratch, and data set, as the names tell them."""
    chosen = {}
    for path in RECIPES:
        backbone, dataset = re.search(r'^(?:faster-rcnn_)?(.+?)_.*_([\w-]+)$', stem(path)).groups()
        chosen.setdefault((backbone, '-scratch_' in path, dataset), path)
    return list(chosen.values())


def read(path):
    return Config.fromfile(ROOT / path, import_custom_modules=False)


def stem(path):
    return Path(path).stem


def classes_of(cfg):
    return cfg.model.get('roi_head', cfg.model).bbox_head.num_classes


def batch_of(path):
    """GPUs and images per GPU that the name tells."""
    gpus, images = re.search(r'_(\d+)xb(\d+)-', path).groups()
    return int(gpus), int(images)


def use_data(cfg, root):
    """Replaces the data root of a config, wherever it occurs."""
    _replace(cfg, cfg.data_root, str(root))


def _replace(node, old, new):
    for key, value in enumerate(node) if isinstance(node, list) else node.items():
        if isinstance(value, str) and value.startswith(f'{old}/'):
            node[key] = new + value.removeprefix(old)
        elif isinstance(value, (dict, list)):
            _replace(value, old, new)


def without_weights(cfg):
    """Removes pretrained weights, so that a test downloads nothing."""
    cfg.model.backbone.init_cfg = None
    return cfg


def shortened(cfg, root, work_dir):
    """Two iterations, one for each of two stages, and a validation of two images, at a tenth of the size."""
    use_data(cfg, root)
    cfg.work_dir = str(work_dir)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        for transform in loader.dataset.pipeline:
            if transform.type in ('Resize', 'RandomResize'):
                transform.scale = _tenth(transform.scale)
            if transform.type == 'RandomCrop':
                transform.crop_size = _tenth(transform.crop_size)
            if transform.type == 'Pad':
                transform.size = _tenth(transform.size)
            if transform.type == 'RandomChoiceResize':
                transform.scales = [_tenth(scale) for scale in transform.scales]
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
        return cfg
    cfg.model.train_cfg.rcnn.sampler.num = 64
    cfg.model.train_cfg.rpn_proposal.update(nms_pre=200, max_per_img=200)
    cfg.model.test_cfg.rpn.update(nms_pre=200, max_per_img=20)
    return cfg


def _tenth(scale):
    return tuple(max(64, side // 10) for side in scale)
