"""The configs of docs/foreign_configs.md, as they are there, on small data."""

import re
import sys
from pathlib import Path

import mmdet
import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmoid.engine.resume.checkpoint_hook import try_load
from mmoid.openimages.readers.coco import export_coco
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.narrow import narrow
from tests.tool_runs import ROOT, logged_scalars, run

GUIDE = (ROOT / 'docs' / 'foreign_configs.md').read_text()
FASTER, CASCADE, LIBRA, DATA, _ = re.findall(r'```python\n(.*?)```', GUIDE, re.DOTALL)
OPTIONS = re.search(r'HEAD=.*?(?=```)', GUIDE, re.DOTALL)[0]
TOOLS = Path(mmdet.__file__).parent / '.mim' / 'tools'
# Two steps on images of 96 pixels, then a validation.
SHORT = {
    'train_cfg.max_epochs': 1,
    'train_dataloader.batch_size': 2,
    'train_dataloader.dataset.indices': 4,
    'train_dataloader.dataset.pipeline.2.scale': (96, 96),
    'val_dataloader.dataset.pipeline.1.scale': (96, 96),
    'val_dataloader.dataset.indices': 4,
    'default_hooks.logger.interval': 1,
}
for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
    SHORT |= {f'{loader}.num_workers': 0, f'{loader}.persistent_workers': False}


def user_config(folder, data_root, text, options=None):
    """Writes the text of the guide as a user's config; returns it small, with the options, also written as small.py."""
    store = AnnotationStore(data_root / 'train')
    text = text.replace('data/openimages', str(data_root)).replace('=500', f'={store.num_classes}')
    (folder / 'mine.py').write_text(text)
    cfg = Config.fromfile(folder / 'mine.py')
    cfg.merge_from_dict({**(options or {}), **SHORT})
    narrow(cfg.model)
    cfg.work_dir = str(folder / 'work')
    cfg.dump(folder / 'small.py')
    return cfg


def with_our_data(text):
    """The guide's detector with the guide's data in one file; keeps the sampler of the first."""
    balance = text.rindex('train_dataloader = ')
    return text[:balance] + DATA + text[balance:].replace('train_dataloader = dict(', 'train_dataloader.update(')


def of_coco(data_root, folder):
    """Options that give mmdet's CocoDataset and CocoMetric the small data."""
    options = {}
    for loader, split in (('train_dataloader', 'train'), ('val_dataloader', 'validation')):
        store = AnnotationStore(data_root / split)
        export_coco(store, folder / f'{split}.json')
        options |= {
            f'{loader}.dataset.data_root': '',
            f'{loader}.dataset.ann_file': str(folder / f'{split}.json'),
            f'{loader}.dataset.data_prefix.img': str(store.image_folder),
            f'{loader}.dataset.metainfo': dict(classes=store.class_names),
        }
    return {**options, 'val_evaluator.ann_file': str(folder / 'validation.json')}


def train(cfg, folder):
    """Two steps and a validation by mmengine's Runner, which is returned with what it logged."""
    cfg.experiment_name = cfg.visualizer.name = folder.name  # runs of one name share a log
    runner = Runner.from_cfg(cfg)
    runner.train()
    lines = logged_scalars(folder / 'work')
    return runner, [line for line in lines if 'loss' in line], lines[-1]


def check_modules(runner, data_root, wrapped):
    store, roi_head = AnnotationStore(data_root / 'train'), runner.model.roi_head
    heads, samplers = roi_head.bbox_head, roi_head.bbox_sampler
    if not isinstance(samplers, list):  # Cascade R-CNN has three of each
        heads, samplers = [heads], [samplers]
    assert all(type(head.loss_cls).__name__ == 'ConcurrentSoftmaxLoss' for head in heads)
    assert all(head.loss_cls.rates.any() and head.num_classes == store.num_classes for head in heads)
    assert all(head.ancestors.sum().item() == store.hierarchy.ancestor_matrix.sum() > 0 for head in heads)
    for sampler in samplers:
        assert type(sampler.sampler).__name__ == wrapped and sampler.num_classes == store.num_classes
    assert type(runner.train_dataloader.batch_sampler.sampler).__name__ == 'SoftBalanceClassAwareSampler'


def test_cascade_rcnn_with_the_data_set_and_metric_of_coco(tiny_data, tmp_path):
    cfg = user_config(tmp_path, tiny_data, CASCADE, of_coco(tiny_data, tmp_path))
    runner, steps, validation = train(cfg, tmp_path)
    check_modules(runner, tiny_data, 'RandomSampler')
    assert len(steps) == 2 and all(step[f's{k}.loss_cls'] > 0 for step in steps for k in range(3))
    assert 'coco/bbox_mAP' in validation


@pytest.mark.slow
def test_libra_rcnn_keeps_its_own_roi_sampler(tiny_data, tmp_path):
    runner, steps, _ = train(user_config(tmp_path, tiny_data, with_our_data(LIBRA)), tmp_path)
    check_modules(runner, tiny_data, 'CombinedSampler')
    assert type(runner.model.roi_head.bbox_head.loss_bbox).__name__ == 'BalancedL1Loss'
    assert len(steps) == 2 and all(step['loss_cls'] > 0 for step in steps)


@pytest.mark.slow
def test_dynamic_rcnn_by_the_options_of_the_command_line(tiny_data, tmp_path):
    words = OPTIONS.replace('\\\n', '').replace('$HEAD', 'model.roi_head.bbox_head')
    options = dict(word.split('=') for word in words.split('--cfg-options')[1].split())
    options = {key: float(value) if value.replace('.', '').isdigit() else value for key, value in options.items()}
    options['model.test_cfg.rcnn.max_per_img'] = int(options['model.test_cfg.rcnn.max_per_img'])  # not a float
    for key in ('concurrent_rates', 'hierarchy'):
        key = f'model.roi_head.bbox_head.loss_cls.{key}'
        options[key] = options[key].replace('data/openimages', str(tiny_data))
    options['model.roi_head.bbox_head.num_classes'] = AnnotationStore(tiny_data / 'train').num_classes
    base = "_base_ = 'mmdet::dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py'\n"
    cfg = user_config(tmp_path, tiny_data, base, {**options, **of_coco(tiny_data, tmp_path)})
    runner, steps, validation = train(cfg, tmp_path)
    check_modules(runner, tiny_data, 'RandomSampler')
    assert type(runner.model.roi_head).__name__ == 'DynamicRoIHead'
    assert len(steps) == 2 and all(step['loss_cls'] > 0 for step in steps) and 'coco/bbox_mAP' in validation


INFERENCE = """
import sys
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
config, checkpoint, image = sys.argv[1:]
assert 'mmoid' not in sys.modules
model = init_detector(config, checkpoint, device='cpu')
found = inference_detector(model, image).pred_instances
inferencer = DetInferencer(config, checkpoint, device='cpu', show_progress=False)
again = inferencer(image, no_save_vis=True, no_save_pred=True)['predictions'][0]
assert model.roi_head.bbox_head.loss_cls.rates.any()
assert model.roi_head.bbox_sampler.sampler.num == 512  # the stock sampler's own value stays
assert len(model.dataset_meta['label_names']) == model.roi_head.bbox_head.num_classes
assert len(found) and torch.allclose(found.scores, torch.tensor(again['scores'])), (found.scores, again['scores'])
alone = DetInferencer(weights=checkpoint, device='cpu', show_progress=False)  # the config is in the checkpoint
assert alone(image, no_save_vis=True, no_save_pred=True)['predictions'][0]['scores'] == again['scores']
"""


def run_elsewhere(folder, *command):
    """Runs Python in another folder, with nothing but mmoid installed."""
    return run(sys.executable, '-W', 'ignore', *command, folder=folder, OMP_NUM_THREADS='1').stdout


def test_mmdets_own_tools_train_and_test_it_and_its_apis_infer(tiny_data, tmp_path):
    """As `mim train mmdet` and `mim test mmdet` do: mim starts these very files of the installed mmdet."""
    user_config(tmp_path, tiny_data, with_our_data(FASTER), {'model.test_cfg.rcnn.score_thr': 0.0})
    run_elsewhere(tmp_path, TOOLS / 'train.py', 'small.py', '--work-dir', 'run')
    checkpoint = tmp_path / 'run' / 'epoch_1.pth'
    assert 'roi_head.bbox_head.loss_cls.rates' in try_load(checkpoint)['state_dict']
    printed = run_elsewhere(tmp_path, TOOLS / 'test.py', 'small.py', checkpoint, '--work-dir', 'tested')
    assert 'openimages/mAP' in printed
    store = AnnotationStore(tiny_data / 'validation')
    image = store.image_folder / store.file_name(0)
    text = (tmp_path / 'small.py').read_text().replace(str(tiny_data), '/nowhere')
    (tmp_path / 'without_data.py').write_text(text)
    run_elsewhere(tmp_path, '-c', INFERENCE, 'without_data.py', checkpoint, image)
