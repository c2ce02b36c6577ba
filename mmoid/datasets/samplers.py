"""SoftBalanceClassAwareSampler: draws classes by Eq. 8, then images of the class, from any data set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Sized
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
from mmdet.datasets import MultiImageMixDataset
from mmdet.registry import DATA_SAMPLERS
from mmengine.dataset import ClassBalancedDataset, RepeatDataset
from mmengine.dist import get_dist_info, sync_random_seed
from scipy.sparse import csr_matrix, hstack
from torch.utils.data import ConcatDataset, Sampler, Subset

from mmoid.openimages.sampling.soft_balance import BalancedDraws


@DATA_SAMPLERS.register_module()
class SoftBalanceClassAwareSampler(Sampler[int]):
    """Soft-balance sampling (Sec. 4.2 of the paper, Eq. 6-8).

    An epoch is a pure function of (``seed``, epoch), the same on all ranks. Of W ranks, rank r receives positions r,
    r + W, r + 2W, ... of it, so the ranks are disjoint and together complete. The end is filled up from the start to a
    multiple of W, as in mmengine's ``DefaultSampler``. The number of workers does not matter: indices are drawn in the
    main process of the rank. :class:`BalancedDraws` draws classes and images.

    Args:
        dataset: The training set; :func:`class_image_lists` finds the images of its classes.
        balance: λ >= 0. 0 draws classes in their natural distribution, 1 uniformly; 0.7 is the paper's best.
        samples_per_epoch: Draws of one epoch over all ranks; the number of images if None. Both stages of a hybrid
            training need the same number.
        expand_hierarchy: Count an image for the ancestors of its classes too.
        seed: Seed of the draws; if None, a random one that all ranks share.
        shuffle: Must be True. The sampler of a stock config has this key beside its ``type``.

    Raises:
        ValueError: λ < 0 or not finite, ``samples_per_epoch`` < 1 or no integer, no class with an image, a data set
            that does not tell its classes.

    Examples:
        >>> sampler = SoftBalanceClassAwareSampler(dataset, balance=0.7, seed=0)
        >>> sampler.set_epoch(3)
        >>> indices = list(sampler)
    """

    def __init__(
        self,
        dataset: Sized,
        balance: float = 0.7,
        samples_per_epoch: int | None = None,
        expand_hierarchy: bool = True,
        seed: int | None = None,
        shuffle: bool = True,
    ) -> None:
        if not shuffle:
            raise ValueError('sampler.shuffle must be True: this sampler draws at random')
        if not 0 <= balance < math.inf:
            raise ValueError(f'sampler.balance (λ) must be >= 0, got {balance}')
        if samples_per_epoch is not None and not (isinstance(samples_per_epoch, int) and samples_per_epoch >= 1):
            raise ValueError(f'sampler.samples_per_epoch must be an integer of at least 1, got {samples_per_epoch!r}')
        self.rank, self.world_size = get_dist_info()
        self.dataset = dataset
        self.balance = balance
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = self.first_epoch = 0
        self._stop, self._images = class_image_lists(dataset, expand_hierarchy)
        if not len(self._images):
            raise ValueError(
                f'sampler.dataset: none of its {len(dataset)} images holds a box of its classes; check '
                'train_dataloader.dataset (metainfo.classes, filter_cfg, indices)'
            )
        counts = np.diff(self._stop, prepend=0)
        self.draws = BalancedDraws(counts, balance, samples_per_epoch or len(dataset), self.seed)
        self.num_samples = math.ceil(self.draws.draws_per_epoch / self.world_size)

    def begin_at(self, epoch: int) -> None:
        """Starts the series at this epoch, the first in which the sampler is used.

        :class:`mmoid.HybridSchedule` calls it for each stage. Otherwise a stage would start in the middle of the walks
        through the images of the classes, and some images would be drawn twice before others. The seed of the series is
        ``seed`` + ``epoch``, so it is independent of an earlier stage's.
        """
        self.first_epoch = epoch
        self.draws = replace(self.draws, seed=self.seed + epoch)

    def __iter__(self) -> Iterator[int]:
        """Indices of this rank in the epoch given by :meth:`set_epoch`."""
        label, position = self.draws.epoch(self.epoch - self.first_epoch)
        first = self._stop - self.draws.image_counts
        indices = self._images[first[label] + position]
        everywhere = np.resize(indices, self.num_samples * self.world_size)  # repeats from the start
        return iter(everywhere[self.rank :: self.world_size].tolist())

    def __len__(self) -> int:
        """Draws of this rank in one epoch."""
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def class_image_lists(dataset: Any, expand_hierarchy: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Image lists of all classes, one after the other.

    A data set with a method ``class_images``, such as :class:`mmoid.OpenImagesHierarchyDataset`, gives them at once,
    also inside ``ConcatDataset``, ``RepeatDataset``, ``ClassBalancedDataset``, ``MultiImageMixDataset`` and torch's
    ``Subset``. For any other data set, ``get_cat_ids`` is called for every image.

    Args:
        dataset: The data set that a loader reads from.
        expand_hierarchy: Count an image for the ancestors of its classes too, if the data set knows them.

    Returns:
        (C,) int end of each class's list, and the lists: (sum of n_i,) indices into ``dataset``. The lists of a
        ``RepeatDataset`` are those of the data set inside it: an image that is in a list several times would be drawn
        again before all images of its class were drawn.

    Raises:
        ValueError: A data set without either method, concatenated data sets with different classes.
    """
    if hasattr(dataset, 'class_images'):
        return dataset.class_images(expand_hierarchy)
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    if type(dataset).__name__ == '_SlicedDataset':  # of train_dataloader.num_batch_per_epoch
        return class_image_lists(dataset._dataset, expand_hierarchy)
    if isinstance(dataset, (RepeatDataset, MultiImageMixDataset)):
        return class_image_lists(dataset.dataset, expand_hierarchy)
    if isinstance(dataset, ConcatDataset):
        _require_same_classes(dataset.datasets)
        parts = [_class_by_item(part, expand_hierarchy) for part in dataset.datasets]
        for part in parts:
            part.resize(max(other.shape[0] for other in parts), part.shape[1])
        items = hstack(parts, format='csr')
    elif isinstance(dataset, (ClassBalancedDataset, Subset)):
        indices = dataset.indices if isinstance(dataset, Subset) else dataset.repeat_indices
        items = _class_by_item(dataset.dataset, expand_hierarchy)[:, np.asarray(indices, dtype=np.int64)]
    elif hasattr(dataset, 'get_cat_ids'):
        labels = [np.unique(dataset.get_cat_ids(index)).astype(np.int64) for index in range(len(dataset))]
        label = np.concatenate([*labels, np.empty(0, dtype=np.int64)])
        item = np.repeat(np.arange(len(labels)), [len(row) for row in labels])
        counts = np.bincount(label, minlength=len(_classes(dataset)))
        return np.cumsum(counts), item[np.argsort(label, kind='stable')]
    else:
        raise ValueError(
            f'sampler.dataset: a {type(dataset).__name__} has neither class_images() nor get_cat_ids(index); the '
            'sampler needs one of them'
        )
    return items.indptr[1:], items.indices


def _class_by_item(dataset: Any, expand_hierarchy: bool) -> csr_matrix:
    """(C, items) bool: which items of a data set hold which class."""
    stop, images = class_image_lists(dataset, expand_hierarchy)
    present = np.ones(len(images), dtype=bool)
    return csr_matrix((present, images, np.concatenate([[0], stop])), shape=(len(stop), len(dataset)))


def _require_same_classes(parts: Sequence[Any]) -> None:
    first, *others = map(_classes, parts)
    for k, classes in enumerate(others, start=1):
        for i, (own, other) in enumerate(zip_longest(first, classes) if first and classes else ()):
            if str(own).casefold() != str(other).casefold():
                raise ValueError(
                    f'sampler.dataset: part {k} of the ConcatDataset has other classes than part 0 (class {i} is '
                    f'{other!r}, not {own!r}); give all parts the same metainfo.classes'
                )


def _classes(dataset: Any) -> tuple[str, ...]:
    """The names of the classes; empty if the data set has none."""
    metainfo = getattr(dataset, 'metainfo', None)  # mmdet's ConcatDataset may have a list
    return tuple(metainfo.get('classes', ())) if isinstance(metainfo, dict) else ()
