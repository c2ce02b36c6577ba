"""Batches that can begin anywhere in an epoch, and whose items are augmented the same whoever loads them, and when."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, Sampler

from mmoid.engine.resume.randomness import seed_item


class SeededBatch(list):
    """Indices of one batch; ``place`` is (seed, rank, epoch, position in the epoch)."""

    place: tuple[int, ...]


class SeededItems:
    """Loads a batch, the generators seeded for each item from its batch's place and its position in the batch.

    Two draws of one image stand in two places, so they are augmented differently.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, batch: Sequence) -> list:
        items = []
        for position, index in enumerate(batch):
            if isinstance(batch, SeededBatch):  # a data set may have a second loader, which is none of our business
                seed_item('item', *batch.place, position)
            items.append(self.dataset[index])
        return items


class ResumableBatchSampler(Sampler):
    """A batch sampler that leaves out the first batches of an epoch, without their images being loaded.

    Of the batch sampler inside it does not matter how it forms batches, as long as it forms the same ones for the same
    epoch: :class:`AspectRatioBatchSampler` draws all indices of the epoch, and reads width and height of each, but the
    batches that were done are dropped here.

    ``sampler`` is that of the batch sampler inside, to read and to set: that is how the stages of a
    :class:`mmoid.HybridSchedule` change it.

    Args:
        batch_sampler: What forms the batches.
        seed: That of the run.
        rank: Of this process.

    Attributes:
        digests: Of each batch handed out and not yet trained on, the checksum of the indices of the epoch up to it.
            Batches are handed out ahead of the training, by as much as the workers load in advance.
    """

    def __init__(self, batch_sampler: Any, seed: int, rank: int) -> None:
        self.batch_sampler = batch_sampler
        self.seed = seed
        self.rank = rank
        self.digests: deque[int] = deque()
        self.begin(epoch=0)

    def begin(self, epoch: int, done: int = 0, digest: int | None = None) -> None:
        """To be called before the loader is iterated.

        Args:
            epoch: Which epoch of the run comes next.
            done: How many of its batches to leave out.
            digest: Checksum that the indices in those must have.
        """
        self.epoch, self.done, self.digest = epoch, done, digest
        self.digests.clear()

    def __iter__(self) -> Iterator[SeededBatch]:
        """The batches of the epoch that are not done.

        Raises:
            ValueError: Those left out hold other indices than those that the checkpoint's run was trained on.
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
        """Batches of a whole epoch, whatever is left out of it."""
        return len(self.batch_sampler)

    def __getattr__(self, name: str) -> Any:
        if name == 'batch_sampler':  # not there yet: while a copy is unpickled
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)

    @property
    def sampler(self) -> Any:
        """What the batch sampler draws from."""
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
    """Puts a :class:`ResumableBatchSampler` and :class:`SeededItems` into a loader that was not iterated yet.

    Raises:
        ValueError: A loader without batches of indices, with a batch sampler that does not keep to its length, or
            already in use.
    """
    batch_sampler = loader.batch_sampler
    if batch_sampler is None:
        raise ValueError(
            'ResumableEpochTrainLoop needs a train_dataloader that draws batches of indices; this one has none, for '
            'batch_size is None or the data set is iterable'
        )
    if getattr(batch_sampler, 'drop_last', False) and type(batch_sampler) is not BatchSampler:
        raise ValueError(
            f'train_dataloader.batch_sampler.drop_last is True: a {type(batch_sampler).__name__} may then give fewer '
            'batches than its length says, and on each rank another number of them; set drop_last=False'
        )
    if getattr(loader, '_iterator', None) is not None:
        raise ValueError('train_dataloader was iterated before: its workers would not see the new batch sampler')
    batches = ResumableBatchSampler(batch_sampler, seed, rank)
    # DataLoader forbids this because an iterator that exists would not notice. The first one is yet to come.
    object.__setattr__(loader, 'batch_sampler', batches)
    # A data set may load whole batches by a method of this name, which torch looks up on the object. So every data set
    # can be seeded, in whatever process, and still is what hooks and samplers know.
    dataset: Any = loader.dataset
    dataset.__getitems__ = SeededItems(dataset)
    return batches
