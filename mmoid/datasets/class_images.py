"""Which images hold which class, for any data set, inside the wrappers of mmengine and mmdet too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.datasets import MultiImageMixDataset
from mmengine.dataset import ClassBalancedDataset, RepeatDataset
from torch.utils.data import ConcatDataset, Subset

from mmoid.openimages.ragged import row_and_position


def class_image_lists(dataset: Any, expand_hierarchy: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Image lists of all classes, one after the other.

    A data set with ``class_images``, as :class:`mmoid.OpenImagesHierarchyDataset` has it, gives them at once, also
    inside ``ConcatDataset``, ``RepeatDataset``, ``ClassBalancedDataset``, ``MultiImageMixDataset`` and torch's
    ``Subset``. Any other is asked for ``get_cat_ids`` of every image.

    Args:
        dataset: The data set that a loader reads from.
        expand_hierarchy: Count an image for the ancestors of its classes too, where the data set knows them.

    Returns:
        (C,) int64 end of each class's list, and the lists: (sum of n_i,) indices into ``dataset``. A
        ``RepeatDataset`` is longer than what it repeats, but its lists are the same: an image that stood in a list
        several times would come again before the others of its class have come.

    Raises:
        ValueError: A data set that cannot tell its classes; concatenated data sets that do not have the same ones.
    """
    if hasattr(dataset, 'class_images'):
        return dataset.class_images(expand_hierarchy)
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    if isinstance(dataset, ConcatDataset):
        _require_same_classes(dataset.datasets)
        lists = [class_image_lists(part, expand_hierarchy) for part in dataset.datasets]
        return _joined(lists, [len(part) for part in dataset.datasets])  # type: ignore[arg-type]
    if isinstance(dataset, (RepeatDataset, MultiImageMixDataset)):
        return class_image_lists(dataset.dataset, expand_hierarchy)
    if isinstance(dataset, ClassBalancedDataset):
        return _picked(class_image_lists(dataset.dataset, expand_hierarchy), dataset.repeat_indices)
    if isinstance(dataset, Subset):
        return _picked(class_image_lists(dataset.dataset, expand_hierarchy), dataset.indices)
    return _asked(dataset)


def _joined(lists: Sequence[tuple[np.ndarray, np.ndarray]], lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of data sets one after the other, which have ``lengths`` images."""
    counts = np.zeros((len(lists), max(len(stop) for stop, _ in lists)), dtype=np.int64)
    for row, (stop, _) in zip(counts, lists):
        row[: len(stop)] = np.diff(stop, prepend=0)
    stop = np.cumsum(counts.sum(axis=0))
    # Each class's list: that of the first data set, then that of the second, ...
    begin = (stop - counts.sum(axis=0)) + (np.cumsum(counts, axis=0) - counts)
    joined = np.empty(stop[-1], dtype=np.int64)
    for k, (_, images) in enumerate(lists):
        label, position = row_and_position(counts[k])
        joined[begin[k][label] + position] = images + sum(lengths[:k])
    return stop, joined


def _picked(lists: tuple[np.ndarray, np.ndarray], indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of a data set whose item i is item ``indices[i]`` of the one that ``lists`` belong to."""
    stop, images = lists
    inner = np.asarray(indices, dtype=np.int64)
    size = 1 + max(images.max(initial=-1), inner.max(initial=-1))
    copies = np.bincount(inner, minlength=size)
    first = np.cumsum(copies) - copies
    entry, copy = row_and_position(copies[images])
    items = np.argsort(inner, kind='stable')  # the copies of image 0, of image 1, ...
    new_stop = np.concatenate([[0], np.cumsum(copies[images])])[stop]
    return new_stop, items[first[images[entry]] + copy]


def _asked(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    if not hasattr(dataset, 'get_cat_ids'):
        raise ValueError(
            f'sampler.dataset: a {type(dataset).__name__} has neither class_images nor get_cat_ids(index), so the '
            'sampler cannot know which images hold which class; give the data set one of them'
        )
    labels = [np.unique(dataset.get_cat_ids(index)) for index in range(len(dataset))]
    image = np.repeat(np.arange(len(labels)), [len(row) for row in labels])
    label = np.concatenate([*labels, []]).astype(np.int64)
    counts = np.bincount(label, minlength=len(_classes(dataset) or ()))
    return np.cumsum(counts), image[np.argsort(label, kind='stable')]


def _require_same_classes(parts: Sequence[Any]) -> None:
    first, *others = map(_classes, parts)
    for k, classes in enumerate(others, start=1):
        if first is None or classes is None or classes == first:
            continue
        differ = [f'class {i} is {b!r}, not {a!r}' for i, (a, b) in enumerate(zip(first, classes)) if a != b]
        raise ValueError(
            f'sampler.dataset: part {k} of the ConcatDataset has other classes than part 0 '
            f'({[*differ, f"{len(classes)}, not {len(first)}"][0]}); give all parts the same metainfo.classes, in the '
            'same order'
        )


def _classes(dataset: Any) -> tuple[str, ...] | None:
    """What the class indices mean; None if the data set does not say."""
    metainfo = getattr(dataset, 'metainfo', None)
    if not isinstance(metainfo, dict) or 'classes' not in metainfo:  # mmdet's ConcatDataset may have a list
        return None
    return tuple(metainfo['classes'])
