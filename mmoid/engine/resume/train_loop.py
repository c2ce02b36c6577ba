"""ResumableEpochTrainLoop: an epoch loop that resumes exactly where a checkpoint was written."""

from __future__ import annotations

from typing import Any

from mmdet.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from mmoid.engine.resume.seeded_batches import make_resumable, seed_generators


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

    Args:
        runner: The runner.
        dataloader: As for ``EpochBasedTrainLoop``.
        max_epochs: Epochs of the run.
        **kwargs: ``val_begin``, ``val_interval``, ``dynamic_intervals``, as for ``EpochBasedTrainLoop``.

    Raises:
        ValueError: No fixed ``randomness.seed``, or a loader without reproducible batches; at the start of the run, a
            checkpoint of a run with other epochs.
    """

    def __init__(self, runner: Runner, dataloader: Any, max_epochs: int, **kwargs: Any) -> None:
        _require_fixed_seed(runner._randomness_cfg)
        super().__init__(runner, dataloader, max_epochs, **kwargs)
        self.batches = make_resumable(self.dataloader, runner.seed, runner.rank)

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
        self.batches.begin(self._epoch, done, self._digest() if done else None)
        seed_generators('epoch', self.runner.seed, self.runner.rank, self._epoch)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, start=done):
            if index == len(self.dataloader):
                self._require_all(index + 1)
            self.run_iter(index, batch)
            done = index + 1
        self._require_all(done)
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
                f'cannot resume: the checkpoint was written after {self._iter} iterations and {self._epoch} epochs, '
                f'which have {length} iterations each here; the number of images, the batch size or the number of '
                'processes has changed'
            )
        return done

    def _digest(self) -> int | None:
        """Checksum of the images of the epoch so far; a checkpoint has that of rank 0, which wrote it."""
        digest = self.runner.message_hub.get_info('epoch_images')
        if digest is None:
            raise ValueError(
                f'cannot resume inside epoch {self._epoch + 1}: the checkpoint, after {self._iter} iterations, was not '
                'written under ResumableEpochTrainLoop; resume from one at the end of an epoch'
            )
        return digest if self.runner.rank == 0 else None

    def _require_all(self, done: int) -> None:
        if done != len(self.dataloader):
            raise ValueError(
                f'train_dataloader gave {done} batches in epoch {self._epoch + 1}, but its length is '
                f'{len(self.dataloader)}; the place in the epoch then does not follow from the number of iterations'
            )


def _require_fixed_seed(randomness: dict) -> None:
    if randomness.get('seed') is None:
        raise ValueError(
            'randomness.seed is None: samplers are built before the seed of a checkpoint is restored, so a resumed run '
            'would see other images; set randomness=dict(seed=0), or another number'
        )
    if randomness.get('diff_rank_seed', False):
        raise ValueError(
            'randomness.diff_rank_seed is True: samplers then draw their own seed, which a resumed run does not know; '
            'remove it, ResumableEpochTrainLoop gives each rank different random numbers'
        )
