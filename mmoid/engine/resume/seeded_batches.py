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
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler


def seed_generators(*place: object, devices: bool = True) -> None:
    """Seeds ``random``, numpy and torch for a place such as ``('iteration', seed, rank, iteration)``.

    ``devices`` also seeds the generators of GPUs, which would take twenty times as long as the rest in a loader worker.
    """
    seed = int.from_bytes(hashlib.blake2b(repr(place).encode(), digest_size=8).digest(), 'little')
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed) if devices else torch.default_generator.manual_seed(seed)


class SeededBatch(list):
    """Indices of one batch; ``place`` is (seed, rank, epoch, position in the epoch)."""

    place: tuple[int, ...]


def load_seeded(dataset: Any, batch: Sequence) -> list:
    """Loads a batch, with the generators seeded for each item: two draws of an image are augmented differently.

    A data set that loads whole batches still does, with the generators seeded for the batch.
    """
    whole = getattr(type(dataset), '__getitems__', None)
    if whole is not None:
        if isinstance(batch, SeededBatch):
            seed_generators('batch', *batch.place, devices=False)
        return whole(dataset, list(batch))
    items = []
    for position, index in enumerate(batch):
        if isinstance(batch, SeededBatch):  # not from another loader of the same data set
            seed_generators('item', *batch.place, position, devices=False)
        items.append(dataset[index])
    return items


class ResumableBatchSampler(Sampler):
    """A batch sampler that skips the first batches of an epoch without loading their images.

    The inner batch sampler may form batches in any way, as long as they are the same for the same epoch.
    """

    def __init__(self, batch_sampler: Any, seed: int, rank: int) -> None:
        self.batch_sampler = batch_sampler
        self.batch_size = getattr(batch_sampler, 'batch_size', None)
        self.seed = seed
        self.rank = rank
        # For each batch given to the loader but not yet trained on, the checksum of the epoch's indices up to it.
        self.digests: deque[int] = deque()
        self.begin(epoch=0)

    def begin(self, epoch: int, done: int = 0, digest: int | None = None) -> None:
        """Chooses the epoch of the next iteration, and the number of its batches to skip.

        ``digest`` is the checksum that the indices of those must have; None accepts any.
        """
        self.epoch, self.done, self.digest = epoch, done, digest
        self.digests.clear()

    def __iter__(self) -> Iterator[SeededBatch]:
        """Yields the remaining batches; a ValueError if the skipped ones are not those that were trained on."""
        digest = 0
        for position, batch in enumerate(self.batch_sampler):
            digest = zlib.crc32(repr(list(batch)).encode(), digest)
            if position < self.done:
                if position == self.done - 1 and self.digest not in (None, digest):
                    raise ValueError(
                        f'cannot resume: the first {self.done} batches of epoch {self.epoch + 1} are not those that '
                        'the checkpoint was trained on. Undo the change of the data set, sampler or batch sampler, or '
                        'resume from a checkpoint at the end of an epoch'
                    )
                continue
            seeded = SeededBatch(batch)
            seeded.place = (self.seed, self.rank, self.epoch, position)
            self.digests.append(digest)
            yield seeded

    def __len__(self) -> int:  # with the skipped ones
        return len(self.batch_sampler)

    @property
    def sampler(self) -> Any:  # HybridSchedule changes it
        return self.batch_sampler.sampler

    @sampler.setter
    def sampler(self, sampler: Any) -> None:
        self.batch_sampler.sampler = sampler


def make_resumable(loader: DataLoader, seed: int, rank: int) -> ResumableBatchSampler:
    """Puts a :class:`ResumableBatchSampler` and :func:`load_seeded` into a loader.

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
    loader.dataset.__getitems__ = partial(load_seeded, loader.dataset)  # type: ignore[attr-defined]
    return batches
