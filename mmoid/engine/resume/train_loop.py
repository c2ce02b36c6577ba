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

    The arguments are those of ``EpochBasedTrainLoop``.

    Raises:
        ValueError: No fixed ``randomness.seed``, or a loader without reproducible batches; at the start of the run, a
            checkpoint of a run with other epochs.
    """

    def __init__(self, runner: Runner, dataloader: Any, max_epochs: int, **kwargs: Any) -> None:
        if runner._randomness_cfg.get('seed') is None:
            raise ValueError('randomness.seed is None: a resumed run would see other images; set it to a number')
        if runner._randomness_cfg.get('diff_rank_seed', False):
            raise ValueError('randomness.diff_rank_seed is True: a resumed run would see other images; remove it')
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
