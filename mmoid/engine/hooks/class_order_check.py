"""ClassOrderCheckHook: the model and the data must have the same classes in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import BaseModule, is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmoid.openimages.errors import AnnotationError


@HOOKS.register_module()
class ClassOrderCheckHook(Hook):
    """Compares the classes of model, checkpoint, training set and validation set before training and before a test.

    Every head must have as many classes as the data. A module with ``label_names`` (a loss has those of its rates and
    its store) must have those of the data in the same order. So must the checkpoint of a test or of ``--resume``, the
    validation set, and each part of a ``ConcatDataset``; display names are compared where there are no MIDs. Case does
    not count. The classes would otherwise be confused silently.

    With ``--resume``, modules take the rates of the checkpoint, as in a test
    (:class:`~mmoid.models.class_lists.ClassBuffer`).

    Raises:
        AnnotationError: They differ.
    """

    def __init__(self) -> None:
        self.trained_on: dict[str, Any] = {}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        meta = checkpoint.get('meta', {})
        meta = {key.lower(): value for key, value in {**meta, **(meta.get('dataset_meta') or {})}.items()}
        self.trained_on = {key: meta[key] for key in ('classes', 'label_names') if meta.get(key)}
        if runner._resume:
            for module in runner.model.modules():
                if hasattr(module, 'training_run'):
                    module.training_run.starts = False

    def before_train(self, runner: Runner) -> None:
        parts = self._check(runner, 'training', runner.train_dataloader)
        if runner._resume:
            _require_same_classes(self.trained_on, parts[0], 'the classes of the checkpoint', 'training')
        if runner.val_loop is not None:
            validation = self._check(runner, 'validation', runner.val_dataloader)[0]
            _require_same_classes(parts[0], validation, 'the classes of the training set', 'validation')

    def before_test(self, runner: Runner) -> None:
        parts = self._check(runner, 'test', runner.test_dataloader)
        _require_same_classes(self.trained_on, parts[0], 'the classes of the checkpoint', 'test')

    def _check(self, runner: Runner, split: str, loader: DataLoader) -> list[dict[str, Any]]:
        """Checks one data set; returns the metainfo of its parts."""
        parts = _parts(getattr(loader.dataset, 'metainfo', {}))
        for other in parts[1:]:
            _require_same_classes(parts[0], other, f'the classes of the first part of the {split} set', split)
        classes, names = parts[0].get('classes'), parts[0].get('label_names')
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        remedy = 'give the model the store, rates and classes of its training data'
        for key, module in model.named_modules():
            if classes and _is_head(key, module) and module.num_classes != len(classes):
                raise AnnotationError(
                    f'model.{key}.num_classes is {module.num_classes}, the {split} set has {len(classes)} classes'
                )
            if names and getattr(module, 'label_names', None):
                _require_same(module.label_names, names, f'the classes of model.{key}', split, remedy)
        return parts


def _parts(metainfo: Any) -> list[dict[str, Any]]:
    """That of a data set, or of each part of a ``ConcatDataset``, whose parts may be such too."""
    return [part for one in metainfo for part in _parts(one)] if isinstance(metainfo, list) else [metainfo]


def _is_head(key: str, module: nn.Module) -> bool:
    """Whether a module predicts the classes of the data: a head of any kind, but no RPN, backbone or semantic head."""
    if any(part in key for part in ('rpn_head', 'backbone', 'semantic')) or hasattr(module, 'contrastive_cfg'):
        return False  # contrastive_cfg: a grounding head predicts tokens of a text
    return isinstance(module, BaseModule) and isinstance(getattr(module, 'num_classes', None), int)


def _require_same_classes(first: dict[str, Any], second: dict[str, Any], what: str, split: str) -> None:
    """Compares the MIDs of two data sets if both have them, else their display names."""
    remedy = 'prepare both with the same --classes file, or give both the same metainfo.classes'
    for key in ('label_names', 'classes'):
        if first.get(key) and second.get(key):
            _require_same(first[key], second[key], what, split, remedy)
            return


def _require_same(own: Sequence[str], names: Sequence[str], what: str, split: str, remedy: str) -> None:
    for row, (there, here) in enumerate(zip_longest(own, names)):
        if (there or '').casefold() != (here or '').casefold():
            raise AnnotationError(
                f'{what} differ from those of the {split} set in names or order: class {row} is {there!r} there and '
                f'{here!r} here; {remedy}'
            )
