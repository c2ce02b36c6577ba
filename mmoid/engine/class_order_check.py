"""ClassOrderCheckHook: the model and the data must mean the same class by the same index."""

from __future__ import annotations

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmoid.openimages.errors import AnnotationError


@HOOKS.register_module()
class ClassOrderCheckHook(Hook):
    """Compares number and order of classes before the first iteration.

    A model part with ``label_names`` (the rates of a :class:`mmoid.ConcurrentSoftmaxLoss` know theirs) must have those
    of the training set; a box head must have as many classes.

    Raises:
        AnnotationError: They differ.
    """

    def before_train(self, runner: Runner) -> None:
        metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', {})
        classes, names = metainfo.get('classes'), metainfo.get('label_names')
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for key, module in model.named_modules():
            if classes and hasattr(module, 'fc_cls') and module.num_classes != len(classes):
                raise AnnotationError(
                    f'model.{key}.num_classes is {module.num_classes}, the training set has {len(classes)} classes'
                )
            own = getattr(module, 'label_names', None)
            if names and own and tuple(own) != tuple(names):
                row = next(
                    (i for i, pair in enumerate(zip(own, names)) if pair[0] != pair[1]), min(len(own), len(names))
                )
                raise AnnotationError(
                    f'model.{key}.concurrent_rates are for other classes or another order than the training set: '
                    f'class {row} is {own[row : row + 1]} there and {tuple(names)[row : row + 1]} here; '
                    'make them from the store that you train on, with tools/concurrent_rates.py'
                )
