"""Which images hold which class, for any data set, also inside the wrappers of mmengine, mmdet and torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from mmdet.datasets import MultiImageMixDataset
from mmengine.dataset import ClassBalancedDataset, RepeatDataset
from torch.utils.data import ConcatDataset, Subset

from mmoid.openimages.ragged import row_and_position


def class_image_lists(dataset: Any, expand_hierarchy: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Image lists of all classes, one after the other.

    A data set with a method ``class_images``, such as :class:`mmoid.OpenImagesHierarchyDataset`, gives them at once,
    also inside ``ConcatDataset``, ``RepeatDataset``, ``ClassBalancedDataset``, ``MultiImageMixDataset`` and torch's
    ``Subset``. For any other data set, ``get_cat_ids`` is called for every image.

    Args:
        dataset: The data set that a loader reads from.
        expand_hierarchy: Count an image for the ancestors of its classes too, if the data set knows them.

    Returns:
        (C,) int64 end of each class's list, and the lists: (sum of n_i,) indices into ``dataset``. The lists of a
        ``RepeatDataset`` are those of the data set inside it: an image that is in a list several times would be drawn
        again before all images of its class were drawn.

    Raises:
        ValueError: A data set without either method, concatenated data sets with different classes.
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
    """Lists of data sets that follow each other and have ``lengths`` images."""
    offsets = np.cumsum([0, *lengths[:-1]])
    parts = [np.split(images + offset, stop[:-1]) for (stop, images), offset in zip(lists, offsets)]
    classes = [np.concatenate(part) for part in zip_longest(*parts, fillvalue=np.empty(0, dtype=np.int64))]
    return np.cumsum([len(images) for images in classes]), np.concatenate(classes)


def _picked(lists: tuple[np.ndarray, np.ndarray], indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of a data set whose item i is item ``indices[i]`` of the one that ``lists`` belong to."""
    stop, images = lists
    inner = np.asarray(indices, dtype=np.int64)
    size = 1 + max(images.max(initial=-1), inner.max(initial=-1))
    copies = np.bincount(inner, minlength=size)
    first = np.cumsum(copies) - copies
    entry, copy = row_and_position(copies[images])
    items = np.argsort(inner, kind='stable')  # items that are image 0, then image 1, ...
    new_stop = np.concatenate([[0], np.cumsum(copies[images])])[stop]
    return new_stop, items[first[images[entry]] + copy]


def _asked(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    if not hasattr(dataset, 'get_cat_ids'):
        raise ValueError(
            f'sampler.dataset: a {type(dataset).__name__} has neither class_images() nor get_cat_ids(index); the '
            'sampler needs one of them'
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
        pairs = enumerate(zip(first, classes))
        difference = next((f'class {i} is {b!r}, not {a!r}' for i, (a, b) in pairs if a != b), '')
        raise ValueError(
            f'sampler.dataset: part {k} of the ConcatDataset has other classes than part 0 '
            f'({difference or f"{len(classes)}, not {len(first)}"}); give all parts the same metainfo.classes'
        )


def _classes(dataset: Any) -> tuple[str, ...] | None:
    """The names of the classes; None if the data set has none."""
    metainfo = getattr(dataset, 'metainfo', None)
    if not isinstance(metainfo, dict) or 'classes' not in metainfo:  # mmdet's ConcatDataset may have a list
        return None
    return tuple(metainfo['classes'])
