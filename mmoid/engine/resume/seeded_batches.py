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


def place_seed(*place: object) -> int:
    """A 64-bit seed for a place such as ``('iteration', seed, rank, iteration)``."""
    return int.from_bytes(hashlib.blake2b(repr(place).encode(), digest_size=8).digest(), 'little')


def seed_item(*place: object) -> None:
    """Seeds the generators that a data pipeline uses: ``random``, numpy's and torch's global CPU generators.

    Not ``torch.manual_seed``, which also seeds every device. In a loader worker, where CUDA is not in use, this takes
    twenty times as long as the rest.
    """
    seed = place_seed(*place)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


def seed_process(*place: object) -> None:
    """Like :func:`seed_item`, and the generators of all devices."""
    seed_item(*place)
    torch.manual_seed(place_seed(*place))


class SeededBatch(list):
    """Indices of one batch; ``place`` is (seed, rank, epoch, position in the epoch)."""

    place: tuple[int, ...]


class SeededItems:
    """Loads a batch, with the generators seeded for each item from the batch's place and the position in it.

    Two draws of one image have different places, so they are augmented differently.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, batch: Sequence) -> list:
        items = []
        for position, index in enumerate(batch):
            if isinstance(batch, SeededBatch):  # not from another loader of the same data set
                seed_item('item', *batch.place, position)
            items.append(self.dataset[index])
        return items


class ResumableBatchSampler(Sampler):
    """A batch sampler that skips the first batches of an epoch without loading their images.

    The inner batch sampler may form batches in any way, as long as they are the same for the same epoch.

    ``sampler`` reads and sets the sampler of the inner batch sampler; :class:`mmoid.HybridSchedule` changes it there.

    Args:
        batch_sampler: The inner batch sampler.
        seed: Seed of the run.
        rank: Rank of this process.

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
                if position == self.done - 1:
                    self._require(digest)
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
        """The sampler of the inner batch sampler."""
        return self.batch_sampler.sampler

    @sampler.setter
    def sampler(self, sampler: Any) -> None:
        self.batch_sampler.sampler = sampler

    def _require(self, digest: int) -> None:
        if self.digest is not None and digest != self.digest:
            raise ValueError(
                f'cannot resume: the first {self.done} batches of epoch {self.epoch + 1} are not those that the '
                'checkpoint was trained on; the data set, the sampler of the stage or the batch sampler has changed. '
                'Undo the change, or resume from a checkpoint at the end of an epoch'
            )


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
