"""The images that a config feeds to its model, in the order of a stage's sampler, to look at them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmdet.registry import DATA_SAMPLERS, DATASETS, TASK_UTILS, TRANSFORMS
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch.nn.functional import one_hot

from mmoid.engine.schedule.hybrid_schedule import Stage, stages_of_config
from mmoid.engine.settings import type_name
from mmoid.visualization.label_sets import AnnotatedImage

MARK = 1 << 20
"""Added to the label of a group-of box, so that the flag passes through every transform."""


class MarkGroupOf:
    """Transform after ``LoadAnnotations`` that adds ``MARK`` to the labels of group-of boxes."""

    def __call__(self, results: dict) -> dict:
        flags = [instance.get('is_group_of') == 1 for instance in results['instances']]  # -1: unknown
        results['gt_bboxes_labels'] = results['gt_bboxes_labels'] + MARK * np.array(flags, dtype=np.int64)
        return results


class UnreadableImage(Exception):
    """Its arguments are the path of an image file that cannot be read, and the reason."""


def load_or_name(transform: dict) -> Any:
    """A ``LoadImageFromFile`` of a config that raises :class:`UnreadableImage` for any error of it."""
    built = TRANSFORMS.build(transform)
    load = built.transform

    def load_and_name(results: dict) -> dict | None:
        try:
            return load(results)
        except Exception as error:  # OSError, AssertionError and cv2.error, by the damage and the backend
            reason = getattr(error, 'strerror', None) or str(error).strip()
            raise UnreadableImage(results['img_path'], reason) from error

    built.transform = load_and_name
    return built  # not a wrapper: the data set sets its ``color_type``


@dataclass(frozen=True)
class StageItems:
    """What one stage of a config (None if it has no stages) feeds in an ``epoch`` of the run, from 0.

    Images that cannot be read are grey and without boxes; ``unreadable`` then has the reason by file.
    """

    stage: Stage | None
    sampler: str
    epoch: int
    class_names: tuple[str, ...]
    same_object_iou: float
    items: Iterator[AnnotatedImage]
    unreadable: dict[str, str]


def stage_items(cfg: Config, stage: str | None = None, epoch: int | None = None) -> StageItems:
    """Opens the training data of a config as one of its stages does.

    Args:
        cfg: A config.
        stage: Name or number (from 1); None: the first.
        epoch: Of the run, from 0; None: the first of the stage.

    Raises:
        ValueError: The config does not have this stage or epoch.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')  # new-style configs have None
    chosen = _choose(stages_of_config(cfg), stage, epoch)
    start, config = (chosen.start, chosen.sampler) if chosen else (0, None)
    loader = copy.deepcopy(cfg.train_dataloader)
    dataset = DATASETS.build(_marked(loader.dataset))
    seed = cfg.get('randomness', {}).get('seed') or 0
    sampler = DATA_SAMPLERS.build(dict(config or loader.sampler), default_args=dict(dataset=dataset, seed=seed))
    epoch = start if epoch is None else epoch
    if hasattr(sampler, 'begin_at'):
        sampler.begin_at(start)
    if hasattr(sampler, 'set_epoch'):
        sampler.set_epoch(epoch)
    classes = tuple(dataset.metainfo['classes'])
    sets = _label_set_sampler(cfg, len(classes))
    same_object_iou = sets.same_object_iou if sets is not None else 1.0
    unreadable: dict[str, str] = {}

    def items() -> Iterator[AnnotatedImage]:
        for index in sampler:
            try:
                yield _item(dataset[int(index)], sets, len(classes))
            except UnreadableImage as error:
                path, reason = error.args
                unreadable[path] = reason
                yield _grey(f'{Path(path).stem}   not readable', len(classes))

    return StageItems(chosen, type(sampler).__name__, epoch, classes, same_object_iou, items(), unreadable)


def _choose(stages: tuple[Stage, ...], name: str | None, epoch: int | None) -> Stage | None:
    if not stages:
        if name is not None:
            raise ValueError(f'--stage {name}: this config has no HybridSchedule among its custom_hooks')
        return None
    numbered = {str(i + 1): stage for i, stage in enumerate(stages)}
    chosen = {**{stage.name: stage for stage in stages}, **numbered}.get(name or '1')
    if chosen is None:
        known = ', '.join(f'{number} ({stage.name})' for number, stage in numbered.items())
        raise ValueError(f'--stage {name}: the config has the stages {known}')
    if epoch is not None and not chosen.start <= epoch < chosen.stop:
        raise ValueError(f'--epoch {epoch}: stage {chosen.name!r} has epochs {chosen.start} to {chosen.stop - 1}')
    return chosen


def _marked(node: Any) -> Any:
    """The config of a data set, wrapped ones included, with our transforms in its pipelines."""
    if isinstance(node, dict):
        return {key: _marked(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        marked = []
        for value in node:
            name = type_name(value.get('type', '')) if isinstance(value, dict) else ''
            marked.append(_marked(value))
            if name == 'LoadImageFromFile':
                marked[-1] = dict(type=load_or_name, transform=value)
            if name.endswith('LoadAnnotations'):
                marked.append(dict(type=MarkGroupOf))
        return type(node)(marked)
    return node


def _label_set_sampler(cfg: Config, num_classes: int) -> Any:
    """The RoI sampler that unites labels, or one that does so as the dense head; None where the model has neither."""
    model = cfg.model
    rcnn, head = (model.get('train_cfg') or {}).get('rcnn'), model.get('roi_head', model).get('bbox_head')
    rcnn, head = (part[0] if isinstance(part, (list, tuple)) else part for part in (rcnn, head))
    if rcnn and type_name(rcnn.sampler.type) == 'LabelSetSampler':
        sampler = dict(rcnn.sampler)
    elif head and 'roi_head' not in model and type_name(head.type).startswith('LabelSet'):
        ancestors = head.get('sets_with_ancestors', False) and head.loss_cls.get('hierarchy') is not None
        sampler = dict(type='LabelSetSampler', sampler='RandomSampler', num=1, ancestors=ancestors)
        sampler['same_object_iou'] = head.get('same_object_iou', 0.9)
    else:
        return None
    loss = head.loss_cls
    known = SimpleNamespace(num_classes=num_classes, hierarchy=loss.get('hierarchy'), classes=loss.get('classes'))
    return TASK_UTILS.build(sampler, default_args=dict(context=SimpleNamespace(bbox_head=known)))


def _item(data: dict, sets: Any, num_classes: int) -> AnnotatedImage:
    sample = data['data_samples']
    parts = (sample.gt_instances, sample.ignored_instances)
    box = torch.cat([get_box_tensor(part.bboxes).float() for part in parts])
    marked = torch.cat([part.labels for part in parts])
    label, learned = marked % MARK, len(sample.gt_instances)
    label_set = one_hot(label, num_classes)
    if sets is not None:
        label_set[:learned] = sets.label_sets(box[:learned], label[:learned])
    image = data['inputs'].permute(1, 2, 0).clamp(0, 255).to(torch.uint8).numpy()
    name = sample.metainfo.get('img_id', sample.metainfo.get('img_path', ''))
    return AnnotatedImage(
        title=f'{name}   {image.shape[1]} x {image.shape[0]}',
        image=image[..., ::-1],  # mmdet loads BGR
        box=box.numpy() / np.tile(image.shape[1::-1], 2),
        label=label.numpy(),
        label_set=label_set.bool().numpy(),
        group_of=(marked >= MARK).numpy(),
        ignored=np.arange(len(label)) >= learned,
    )


def _grey(title: str, num_classes: int) -> AnnotatedImage:
    """Stands for an image that cannot be read."""
    none = np.zeros(0, dtype=bool)
    image = np.full((3, 4, 3), 204, dtype=np.uint8)
    return AnnotatedImage(title, image, np.zeros((0, 4)), none, np.zeros((0, num_classes), dtype=bool), none, none)
