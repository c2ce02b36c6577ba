"""ClassOrderCheckHook: the model and the data must have the same classes in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmoid.openimages.errors import AnnotationError


@HOOKS.register_module()
class ClassOrderCheckHook(Hook):
    """Compares the classes of model, training set and validation set before the first iteration, and before a test.

    A module with ``label_names`` (a loss has those of its rates and its store) must have the names of the data in the
    same order, a box head the same number of classes. The validation set must have the classes of the training set,
    because a validation would otherwise silently confuse classes.

    Raises:
        AnnotationError: They differ.
    """

    def before_train(self, runner: Runner) -> None:
        self._check(runner, 'training', runner.train_dataloader)
        if runner.val_loop is not None:
            self._check(runner, 'validation', runner.val_dataloader)
            own = _metainfo(runner.train_dataloader).get('label_names')
            names = _metainfo(runner.val_dataloader).get('label_names')
            if own and names:
                remedy = 'prepare both with the same --classes file'
                _require_same(own, names, 'the classes of the training set', 'validation', remedy)

    def before_test(self, runner: Runner) -> None:
        self._check(runner, 'test', runner.test_dataloader)

    def _check(self, runner: Runner, split: str, loader: DataLoader) -> None:
        classes, names = _metainfo(loader).get('classes'), _metainfo(loader).get('label_names')
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for key, module in model.named_modules():
            if classes and hasattr(module, 'fc_cls') and module.num_classes != len(classes):
                raise AnnotationError(
                    f'model.{key}.num_classes is {module.num_classes}, the {split} set has {len(classes)} classes'
                )
            own = getattr(module, 'label_names', None)
            if names and own:
                remedy = 'give the model the store, rates and classes of its training data'
                _require_same(own, names, f'the classes of model.{key}', split, remedy)


def _metainfo(loader: DataLoader) -> dict[str, Any]:
    return getattr(loader.dataset, 'metainfo', {})


def _require_same(own: Sequence[str], names: Sequence[str], what: str, split: str, remedy: str) -> None:
    if tuple(own) == tuple(names):
        return
    differ = (i for i, pair in enumerate(zip(own, names)) if pair[0] != pair[1])
    row = next(differ, min(len(own), len(names)))
    raise AnnotationError(
        f'{what} differ from those of the {split} set in names or order: class {row} is '
        f'{tuple(own)[row : row + 1]} there and {tuple(names)[row : row + 1]} here; {remedy}'
    )
