"""ClassOrderCheckHook with models and metainfo of every form."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from mmengine.runner.priority import get_priority
from torch import nn

import mmoid
from mmoid.openimages.errors import AnnotationError

NAMES = {'classes': ('Apple', 'Bench', 'Cat'), 'label_names': ('/m/a', '/m/b', '/m/c')}
TURNED = {'classes': ('Bench', 'Apple', 'Cat'), 'label_names': ('/m/b', '/m/a', '/m/c')}
COCO = {'classes': ['apple', 'bench', 'cat']}
COCO_TURNED = {'classes': ['bench', 'apple', 'cat']}
HEADS = {
    'box': dict(type='Shared2FCBBoxHead', in_channels=4, fc_out_channels=4, roi_feat_size=1),
    'one-stage': dict(type='RetinaHead', in_channels=4, feat_channels=4, stacked_convs=1),
    'DETR': dict(type='DETRHead', loss_cls=dict(type='FocalLoss', use_sigmoid=True)),
    'mask': dict(type='FCNMaskHead', in_channels=4, conv_out_channels=4, num_convs=1),
}


def run(model, train=NAMES, validation=NAMES, checkpoint=None, resume=False, test=False):
    """The hook's calls in the order of mmengine's Runner."""
    loaders = [SimpleNamespace(dataset=SimpleNamespace(metainfo=metainfo)) for metainfo in (train, validation)]
    runner = SimpleNamespace(
        model=model, train_dataloader=loaders[0], val_dataloader=loaders[1], test_dataloader=loaders[1]
    )
    runner.val_loop, runner._resume = object(), resume
    hook = mmoid.ClassOrderCheckHook()
    if checkpoint:
        hook.after_load_checkpoint(runner, dict(meta=dict(dataset_meta=checkpoint)))
    (hook.before_test if test else hook.before_train)(runner)


@pytest.mark.parametrize('kind', HEADS)
def test_every_head_must_have_the_number_of_classes_of_the_data(kind):
    def model(num_classes):
        rpn = MODELS.build(dict(type='RPNHead', in_channels=4, feat_channels=4))  # has one class, the object
        head = MODELS.build(dict(HEADS[kind], num_classes=num_classes))
        return nn.ModuleDict(dict(rpn_head=rpn, heads=nn.ModuleList([head])))

    with DefaultScope.overwrite_default_scope('mmdet'):
        run(model(3))
        with pytest.raises(AnnotationError, match=r'heads\.0.* is 7, the training set has 3 classes'):
            run(model(7))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(train=[NAMES, COCO]), None),  # ConcatDataset
        (dict(train=[NAMES, [NAMES, COCO]]), None),  # one in another
        (dict(train=[[NAMES, COCO], [COCO_TURNED]]), 'the first part of the training set .* class 0'),
        (dict(train=[NAMES, COCO_TURNED]), 'the first part of the training set .* class 0'),
        (dict(validation=COCO), None),
        (dict(validation=TURNED), 'the training set differ from those of the validation set .* class 0'),
        (dict(validation=COCO_TURNED), 'the training set differ from those of the validation set .* class 0'),
        (dict(checkpoint=TURNED), None),  # load_from
        (dict(checkpoint=TURNED, resume=True), 'the checkpoint differ from those of the training set'),
        (dict(checkpoint=NAMES, test=True), None),
        (dict(checkpoint=COCO_TURNED, test=True), 'the checkpoint differ from those of the test set'),
        (dict(checkpoint={'CLASSES': COCO_TURNED['classes']}, test=True), 'the checkpoint differ from'),  # mmdet 2
    ],
)
def test_data_sets_and_checkpoints_must_have_the_same_classes_in_the_same_order(options, message):
    with pytest.raises(AnnotationError, match=message) if message else nullcontext():
        run(nn.Module(), **options)


def test_a_module_must_have_the_classes_of_the_data_in_the_same_order():
    loss = mmoid.ConcurrentSoftmaxLoss(3, classes=TURNED['label_names'])
    run(nn.ModuleDict(dict(loss_cls=loss)), TURNED, TURNED)
    with pytest.raises(AnnotationError, match=r'classes of model\.loss_cls differ .* class 0 is'):
        run(nn.ModuleDict(dict(loss_cls=loss)))


def test_resume_takes_the_rates_of_the_checkpoint():
    given = torch.zeros(4, 4).fill_diagonal_(0)
    for resume, expected in ((False, 0.5), (True, 0.0)):
        loss = mmoid.ConcurrentSoftmaxLoss(3, torch.full((3, 3), 0.5))
        loss.init_weights()  # as the Runner does before it loads a checkpoint
        run(nn.ModuleDict(dict(loss_cls=loss)), checkpoint=NAMES, resume=resume)
        loss.load_state_dict(dict(rates=given))
        assert loss.rates[0, 1] == expected
    assert get_priority(mmoid.ClassOrderCheckHook.priority) < 49, 'before EMAHook in the configs of mmdet'
