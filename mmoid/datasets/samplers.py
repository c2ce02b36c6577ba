"""SoftBalanceClassAwareSampler: draws classes by Eq. 8, then images of the class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from dataclasses import replace

import numpy as np
from mmdet.registry import DATA_SAMPLERS
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from mmoid.datasets.class_images import class_image_lists
from mmoid.openimages.sampling.soft_balance import BalancedDraws


@DATA_SAMPLERS.register_module()
class SoftBalanceClassAwareSampler(Sampler[int]):
    """Soft-balance sampling (Sec. 4.2 of the paper, Eq. 6-8).

    An epoch is a pure function of (``seed``, epoch), the same on all ranks. Of W ranks, rank r receives positions r,
    r + W, r + 2W, ... of it, so the ranks are disjoint and together complete. The end is filled up from the start to a
    multiple of W, as in mmengine's ``DefaultSampler``. The number of workers does not matter: indices are drawn in the
    main process of the rank. :class:`BalancedDraws` draws classes and images.

    Args:
        dataset: The training set. :class:`mmoid.OpenImagesHierarchyDataset` gives its image lists at once, also inside
            the wrappers of mmengine and mmdet; for any other data set ``get_cat_ids`` is called for every image.
        balance: λ >= 0. 0 draws classes in their natural distribution, 1 uniformly; 0.7 is the paper's best.
        samples_per_epoch: Draws of one epoch over all ranks; the number of images if None. Both stages of a hybrid
            training need the same number.
        expand_hierarchy: Count an image for the ancestors of its classes too.
        seed: Seed of the draws; if None, a random one that all ranks share.
        shuffle: Must be True. The sampler of a stock config has this key beside its ``type``.

    Raises:
        ValueError: λ < 0 or not finite, ``samples_per_epoch`` < 1 or no integer, no class with an image, a data set
            that does not tell its classes.

    Example:
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
        self.draws = BalancedDraws(
            image_counts=np.diff(self._stop, prepend=0),
            balance=balance,
            draws_per_epoch=samples_per_epoch or len(dataset),
            seed=self.seed,
        )
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
