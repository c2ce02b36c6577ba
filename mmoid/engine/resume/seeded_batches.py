"""Random numbers and batches as functions of a place in the training.

So a checkpoint needs no generator states. They could not be saved exactly anyway: the generators of loader workers are
ahead of the training by the batches that they have loaded in advance, and depend on the number of workers.
"""

from __future__ import annotations

import hashlib
import random
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler


def seed_generators(*place: object, devices: bool = True) -> None:
    """Seeds ``random``, numpy and torch for a place such as ``('iteration', seed, rank, iteration)``.

    Args:
        *place: Anything with a ``repr``.
        devices: Whether to seed the generators of GPUs too. In a loader worker this would take twenty times as long as
            the rest.
    """
    seed = int.from_bytes(hashlib.blake2b(repr(place).encode(), digest_size=8).digest(), 'little')
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed) if devices else torch.default_generator.manual_seed(seed)


class SeededBatch(list):
    """Indices of one batch; ``place`` is (seed, rank, epoch, position in the epoch)."""

    place: tuple[int, ...]


class SeededItems:
    """Loads a batch, with the generators seeded for each item: two draws of an image are augmented differently."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.own: Any = getattr(dataset, '__getitems__', None)
        if isinstance(self.own, SeededItems):  # of an earlier loader
            self.own = self.own.own

    def __call__(self, batch: Sequence) -> list:
        if self.own is not None:  # the data set loads whole batches, so there are no items to seed
            if isinstance(batch, SeededBatch):
                seed_generators('batch', *batch.place, devices=False)
            return self.own(list(batch))
        items = []
        for position, index in enumerate(batch):
            if isinstance(batch, SeededBatch):  # not from another loader of the same data set
                seed_generators('item', *batch.place, position, devices=False)
            items.append(self.dataset[index])
        return items


class ResumableBatchSampler(Sampler):
    """A batch sampler that skips the first batches of an epoch without loading their images.

    The inner batch sampler may form batches in any way, as long as they are the same for the same epoch.

    Attributes:
        digests: For each batch given to the loader but not yet trained on, the checksum of the indices of the epoch up
            to it. The workers load some batches in advance.
    """

    def __init__(self, batch_sampler: Any, seed: int, rank: int) -> None:
        self.batch_sampler = batch_sampler
        self.seed = seed
        self.rank = rank
        self.digests: deque[int] = deque()
        self.begin(epoch=0)

    def begin(self, epoch: int, done: int = 0, digest: int | None = None) -> None:
        """Call this before iterating the loader.

        Args:
            epoch: Next epoch of the run.
            done: Number of its batches to skip.
            digest: Checksum that the indices of the skipped batches must have; None to accept any.
        """
        self.epoch, self.done, self.digest = epoch, done, digest
        self.digests.clear()

    def __iter__(self) -> Iterator[SeededBatch]:
        """Yields the remaining batches of the epoch.

        Raises:
            ValueError: The skipped batches are not those that the checkpoint was trained on.
        """
        digest = 0
        for position, batch in enumerate(self.batch_sampler):
            digest = zlib.crc32(repr(list(batch)).encode(), digest)
            if position < self.done:
                if position == self.done - 1 and self.digest not in (None, digest):
                    raise ValueError(
                        f'cannot resume: the first {self.done} batches of epoch {self.epoch + 1} are not those that '
                        'the checkpoint was trained on; the data set, the sampler of the stage or the batch sampler '
                        'has changed. Undo the change, or resume from a checkpoint at the end of an epoch'
                    )
                continue
            seeded = SeededBatch(batch)
            seeded.place = (self.seed, self.rank, self.epoch, position)
            self.digests.append(digest)
            yield seeded

    def __len__(self) -> int:
        """Number of batches of a whole epoch, including skipped ones."""
        return len(self.batch_sampler)

    def __getattr__(self, name: str) -> Any:
        if name == 'batch_sampler':  # does not exist yet while a copy is unpickled
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)

    @property
    def sampler(self) -> Any:
        """The sampler of the inner batch sampler; :class:`mmoid.HybridSchedule` changes it."""
        return self.batch_sampler.sampler

    @sampler.setter
    def sampler(self, sampler: Any) -> None:
        self.batch_sampler.sampler = sampler


def make_resumable(loader: DataLoader, seed: int, rank: int) -> ResumableBatchSampler:
    """Puts a :class:`ResumableBatchSampler` and :class:`SeededItems` into a loader.

    Raises:
        ValueError: A loader without batches of indices, or with a batch sampler that may not keep to its length.
    """
    batch_sampler = loader.batch_sampler
    if batch_sampler is None:
        raise ValueError(
            'ResumableEpochTrainLoop needs a train_dataloader with batches of indices; here batch_size is None or the '
            'data set is iterable'
        )
    if getattr(batch_sampler, 'drop_last', False) and type(batch_sampler) is not BatchSampler:
        raise ValueError(
            f'train_dataloader.batch_sampler.drop_last is True: {type(batch_sampler).__name__} may then give fewer '
            'batches than its length, and a different number on each rank; set drop_last=False'
        )
    batches = ResumableBatchSampler(batch_sampler, seed, rank)
    # DataLoader forbids this because an existing iterator would not notice. There is none yet.
    object.__setattr__(loader, 'batch_sampler', batches)
    # torch calls a data set's method of this name to load a whole batch, in whatever process.
    dataset: Any = loader.dataset
    dataset.__getitems__ = SeededItems(dataset)
    return batches
