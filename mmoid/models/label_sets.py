"""Label sets and negatives of ground truths, and ancestors of detections, for all heads."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.ops import batched_nms
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from scipy.sparse import csr_array
from torch import Tensor

from mmoid.models.class_lists import (
    ClassBuffer,
    Hierarchy,
    ancestor_matrix,
    class_matrix,
    is_missing,
    label_names_of,
    rows_of,
)
from mmoid.models.losses.base import LabelSetLoss
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.statistics.concurrent_rates import load_rates
from mmoid.openimages.store.annotation_store import AnnotationStore

Unverified: TypeAlias = Literal['negative', 'ignore', 'sample']

NOT_OF_ALL_LOSSES = ('use_sigmoid', 'concurrent_rates', 'hierarchy', 'hierarchy_rate', 'rates_from')


def loss_config(given: dict, num_classes: int) -> dict | None:
    """Config of a loss of mmoid in a head: with its number of classes, without the options that it does not have.

    None for another loss.
    """
    loss_type = MODELS.get(given['type']) if isinstance(given['type'], str) else given['type']
    if not (isinstance(loss_type, type) and issubclass(loss_type, LabelSetLoss)):
        return None
    taken = inspect.signature(loss_type).parameters
    kept = {key: value for key, value in given.items() if key in taken or key not in NOT_OF_ALL_LOSSES}
    return {'num_classes': num_classes, **kept}


def with_ancestors(result: InstanceData, ancestors: Tensor, iou_threshold: float) -> InstanceData:
    """Adds each detection to the ancestors of its class, then runs NMS per class over own and added boxes.

    Classes without added boxes stay as they are, so that soft-NMS and detectors without NMS have an effect.

    Args:
        result: ``bboxes``, ``scores`` and ``labels`` of an image, and what else detections have.
        ancestors: (C, C) bool, dense or sparse, [i, j]: j is an ancestor of i.
        iou_threshold: Of the NMS.
    """
    if not len(result):
        return result
    own = F.one_hot(result.labels, len(ancestors)).bool()
    counts_for = own | rows_of(ancestors, result.labels)
    rows, labels = counts_for.nonzero(as_tuple=True)
    expanded = result[rows]
    expanded.labels = labels
    groups = labels.where((counts_for & ~own).any(dim=0)[labels], len(ancestors) + rows)
    nms = dict(type='nms', iou_threshold=iou_threshold)
    return expanded[batched_nms(get_box_tensor(expanded.bboxes), expanded.scores, groups, nms)[1]]


class VerifiedClasses:
    """Which classes of an image are negatives of its boxes and background.

    An image is annotated for a few classes. The others may be in it unseen.

    Args:
        unverified: What the classes that nobody verified in an image are: ``negative``, as in a stock detector;
            ``ignore``, neither label nor negative; ``sample``: some of them, another draw in each iteration, are
            negatives in all images of the batch. Zhou et al., "Detecting Twenty-thousand Classes using Image-level
            Supervision", ECCV 2022, draw 50 by the square root of their frequency.
        num_sampled: Classes to draw.
        num_classes: C.
        hierarchy: Prepared store that gives the frequencies, for ``sample``.
    """

    def __init__(self, unverified: Unverified, num_sampled: int, num_classes: int, hierarchy: Hierarchy | None) -> None:
        if unverified not in ('negative', 'ignore', 'sample'):
            raise ValueError(f"bbox_head.unverified must be 'negative', 'ignore' or 'sample', got {unverified!r}")
        self.unverified = unverified
        self.num_classes = num_classes
        self.num_sampled = min(num_sampled, num_classes)
        self.weight: Tensor | None = None
        if unverified == 'sample' and not is_missing(hierarchy):
            if not (isinstance(hierarchy, (str, Path)) and Path(hierarchy).is_dir()):
                raise ValueError("bbox_head.unverified='sample' needs a prepared store as loss_cls.hierarchy")
            counts = AnnotationStore(hierarchy).class_image_counts()
            if len(counts) != num_classes:
                raise ValueError("bbox_head.unverified='sample' needs all classes of loss_cls.hierarchy")
            self.weight = torch.from_numpy(np.sqrt(np.maximum(counts, 1)))

    def judged(self, ground_truths: Sequence[InstanceData], device: torch.device) -> Tensor | None:
        """(B, C) bool: verified or drawn, of B images; None if all classes are.

        ``ground_truths`` have ``verified_classes``, which :class:`mmoid.OpenImagesHierarchyDataset` gives them.
        """
        if self.unverified == 'negative':
            return None
        judged = np.zeros((len(ground_truths), self.num_classes), dtype=bool)
        for row, instances in zip(judged, ground_truths):
            if 'verified_classes' not in instances:
                raise AnnotationError(
                    f'bbox_head.unverified={self.unverified!r}: an image has no verified classes; they come from '
                    'OpenImagesHierarchyDataset, and a pipeline that mixes images (Mosaic, MixUp, CopyPaste) has none'
                )
            row[instances.verified_classes] = True
        if self.weight is not None:
            judged[:, torch.multinomial(self.weight, self.num_sampled).numpy()] = True
        return torch.from_numpy(judged).to(device, non_blocking=True)

    def mark(self, sets: Tensor, ground_truths: Sequence[InstanceData], counts: Sequence[int]) -> Tensor:
        """(N, C) bool label sets, as int8 with -1 for classes that are not judged, if there are such.

        ``counts`` are the rows of each image.
        """
        judged = self.judged(ground_truths, sets.device)
        if judged is None:
            return sets
        rows = torch.tensor(counts, device=sets.device)
        judged = judged.repeat_interleave(rows, dim=0, output_size=len(sets))
        return sets.to(torch.int8).masked_fill(~(judged | sets), -1)


class AncestorBuffer(ClassBuffer):
    """Mixin of the heads: the ancestors of the classes, from the ``hierarchy`` of the head's loss."""

    buffer_name = 'ancestors'
    ancestors: Tensor  # (C, C) bool, [i, j]: j is an ancestor of i; see ClassBuffer
    add_ancestors: bool

    def set_ancestors(self, loss_cls: dict) -> None:
        """Reads them by the config of the loss, which is built. Sets ``label_names``."""
        hierarchy, rates = loss_cls.get('hierarchy'), loss_cls.get('concurrent_rates')
        names = getattr(self.loss_cls, 'label_names', None)
        self.label_names = names or label_names_of(hierarchy, loss_cls.get('classes'), 'loss_cls')
        self.rates_from = loss_cls.get('rates_from', 'checkpoint')
        self.missing_files = [f'loss_cls.hierarchy = {hierarchy}'] if is_missing(hierarchy) else []
        if self.label_names is None and isinstance(hierarchy, (str, Path)) and isinstance(rates, (str, Path)):
            if is_missing(rates):  # the classes of a JSON file are in the order of the rates
                self.missing_files.append(f'loss_cls.concurrent_rates = {rates}')
            else:
                self.label_names = load_rates(rates)[1]
        matrix = csr_array((self.num_classes, self.num_classes), dtype=bool)
        if hierarchy is not None and not self.missing_files:
            matrix = ancestor_matrix(hierarchy, self.num_classes, self.label_names, 'loss_cls.hierarchy')
        self.set_class_buffer(class_matrix(matrix), hierarchy is not None)

    def with_ancestors(self, results: list[InstanceData], nms: dict) -> list[InstanceData]:
        """The detections of each image, with ancestors if ``add_ancestors`` is set. ``nms``: config of the NMS."""
        if not self.add_ancestors:
            return results
        self.require_class_files()
        return [with_ancestors(result, self.class_buffer(), nms.get('iou_threshold', 0.5)) for result in results]
