"""ResumableEpochTrainLoop: an epoch loop that resumes exactly where a checkpoint was written.

Random numbers and batches are functions of a place in the training, so a checkpoint needs no generator states. They
could not be saved exactly anyway: the generators of loader workers are ahead of the training by the batches that they
have loaded in advance, and depend on the number of workers.
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
from mmdet.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import BatchSampler, Sampler


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


@LOOPS.register_module()
class ResumableEpochTrainLoop(EpochBasedTrainLoop):
    """mmengine's epoch loop, with exact resume inside an epoch as well as at its end.

    mmengine repeats the whole epoch when it resumes inside one, and an epoch of Open Images has 10^5 iterations. This
    loop continues with the next batch and does not load the earlier ones. No image is repeated or left out, because

    - batches come from samplers that are functions of (seed, epoch), and the first ones are dropped as indices;
    - the random numbers of a data item are a function of (seed, rank, epoch, batch, position in it), in any worker, and
      those of an iteration (RoI sampling, dropout) of (seed, rank, iteration).

    A run that was killed and resumed ends with the weights of one that was not: on the CPU bit for bit with one or two
    processes. A validation that was due when the run was killed runs first. docs/training.md says what is not exact.

    The arguments are those of ``EpochBasedTrainLoop``.

    Raises:
        ValueError: No fixed ``randomness.seed``, or a loader without reproducible batches; at the start of the run, a
            checkpoint of a run with other epochs.
    """

    def __init__(self, runner: Runner, dataloader: Any, max_epochs: int, **kwargs: Any) -> None:
        for key, wrong, remedy in (('seed', None, 'set it to a number'), ('diff_rank_seed', True, 'remove it')):
            if runner._randomness_cfg.get(key) == wrong:
                raise ValueError(f'randomness.{key} is {wrong}: a resumed run would see other images; {remedy}')
        super().__init__(runner, dataloader, max_epochs, **kwargs)
        loader, inner = self.dataloader, self.dataloader.batch_sampler
        if inner is None:
            raise ValueError(
                'ResumableEpochTrainLoop needs a train_dataloader with batches of indices; here batch_size is None or '
                'the data set is iterable'
            )
        if getattr(inner, 'drop_last', False) and type(inner) is not BatchSampler:
            raise ValueError(
                f'train_dataloader.batch_sampler.drop_last is True: {type(inner).__name__} may then give fewer batches '
                'than its length, and a different number on each rank; set drop_last=False'
            )
        self.batches = ResumableBatchSampler(inner, runner.seed, runner.rank)
        # DataLoader forbids this because an existing iterator would not notice. There is none yet.
        object.__setattr__(loader, 'batch_sampler', self.batches)
        # torch calls a data set's method of this name to load a whole batch, in whatever process.
        loader.dataset.__getitems__ = partial(load_seeded, loader.dataset)

    def run(self) -> nn.Module:
        self.runner.call_hook('before_train')
        self._validate()  # if the run was killed before it did
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        done = self._batches_done()
        digest = self.runner.message_hub.get_info('epoch_images')
        if done and digest is None:
            raise ValueError(
                f'cannot resume inside epoch {self._epoch + 1}: the checkpoint was not written under '
                'ResumableEpochTrainLoop; resume from one at the end of an epoch'
            )
        # A checkpoint has the checksum of rank 0, which wrote it.
        self.batches.begin(self._epoch, done, digest if self.runner.rank == 0 else None)
        seed_generators('epoch', self.runner.seed, self.runner.rank, self._epoch)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, start=done):
            self.run_iter(index, batch)
            done = index + 1
        if done != len(self.dataloader):
            raise ValueError(f'train_dataloader has length {len(self.dataloader)}, but gave {done} batches in an epoch')
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Any) -> None:
        # The message hub is part of every checkpoint.
        self.runner.message_hub.update_info('epoch_images', self.batches.digests.popleft())
        seed_generators('iteration', self.runner.seed, self.runner.rank, self._iter)
        super().run_iter(idx, data_batch)

    def _validate(self) -> None:
        """Validates at the end of an epoch, if due and not done yet."""
        hub = self.runner.message_hub
        if self._epoch == 0 or self._batches_done() or hub.get_info('validated_epoch', 0) == self._epoch:
            return
        self._decide_current_val_interval()
        due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        if self.runner.val_loop is not None and self._epoch >= self.val_begin and due:
            # Set first, because a checkpoint is written at the end of the validation.
            hub.update_info('validated_epoch', self._epoch)
            seed_generators('validation', self.runner.seed, self.runner.rank, self._epoch)
            self.runner.val_loop.run()

    def _batches_done(self) -> int:
        """Number of batches of the current epoch that were trained on."""
        length = len(self.dataloader)
        done = self._iter - self._epoch * length
        if not 0 <= done <= length:
            raise ValueError(
                f'cannot resume: the checkpoint was written after {self._epoch} epochs and {self._iter} iterations, '
                f'but an epoch has {length} here; the number of images, of processes or the batch size has changed'
            )
        return done
