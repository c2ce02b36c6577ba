"""ResumableEpochTrainLoop: an epoch loop that goes on exactly where a checkpoint was written."""

from __future__ import annotations

from typing import Any

from mmdet.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from mmoid.engine.resume.randomness import seed_process
from mmoid.engine.resume.seeded_batches import make_resumable


@LOOPS.register_module()
class ResumableEpochTrainLoop(EpochBasedTrainLoop):
    """mmengine's epoch loop, resumed inside an epoch as well as at its end.

    mmengine starts an epoch anew when it resumes; one of Open Images is 10^5 iterations. This loop goes on with the
    next batch, without loading those that are done. No image is repeated or left out, because

    - batches come from samplers that are functions of (seed, epoch), and the first ones are dropped as indices;
    - what is random in a data item is a function of (seed, rank, epoch, batch, position in it), whichever worker loads
      it, and what is random in an iteration (RoI sampling, dropout) of (seed, rank, iteration).

    So a run that was killed and resumed ends with the weights of one that was not: on the CPU bit for bit with one or
    two processes. With more of them, and on GPUs, sums are taken in an order that is not fixed.

    A validation that was due when the run was killed is made up for first.

    What cannot be had: transforms that remember earlier images (mmdet's ``CachedMosaic``, ``CachedMixUp``), modules
    with state outside of their ``state_dict`` (``BatchSyncRandomResize``). Batch statistics that ranks do not share
    are, after a resume, those of rank 0 on all.

    Args:
        runner: The runner.
        dataloader: As for ``EpochBasedTrainLoop``.
        max_epochs: Epochs of the run.
        **kwargs: ``val_begin``, ``val_interval``, ``dynamic_intervals``, as for ``EpochBasedTrainLoop``.

    Raises:
        ValueError: No fixed ``randomness.seed``, or a loader whose batches cannot be found again; when the run begins,
            a checkpoint whose iteration is not one of this run.
    """

    def __init__(self, runner: Runner, dataloader: Any, max_epochs: int, **kwargs: Any) -> None:
        _require_fixed_seed(runner._randomness_cfg)
        super().__init__(runner, dataloader, max_epochs, **kwargs)
        self.batches = make_resumable(self.dataloader, runner.seed, runner.rank)

    def run(self) -> nn.Module:
        self.runner.call_hook('before_train')
        self._validate()  # of a resumed run, if it was killed before it had
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        done = self._batches_done()
        self.batches.begin(self._epoch, done, self._digest() if done else None)
        seed_process('epoch', self.runner.seed, self.runner.rank, self._epoch)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, start=done):
            self.run_iter(index, batch)
            done = index + 1
        self._require_all(done)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Any) -> None:
        # In the message hub it goes into every checkpoint, and comes back with it.
        self.runner.message_hub.update_info('epoch_images', self.batches.digests.popleft())
        seed_process('iteration', self.runner.seed, self.runner.rank, self._iter)
        super().run_iter(idx, data_batch)

    def _validate(self) -> None:
        """Validates if this is the end of an epoch that asks for it and has not been validated."""
        hub = self.runner.message_hub
        if self._epoch == 0 or self._batches_done() or hub.get_info('validated_epoch', 0) == self._epoch:
            return
        self._decide_current_val_interval()
        due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        if self.runner.val_loop is not None and self._epoch >= self.val_begin and due:
            # Before it is: checkpoints are written at the end of a validation, not inside.
            hub.update_info('validated_epoch', self._epoch)
            seed_process('validation', self.runner.seed, self.runner.rank, self._epoch)
            self.runner.val_loop.run()

    def _batches_done(self) -> int:
        """How many batches of the current epoch were trained on."""
        length = len(self.dataloader)
        done = self._iter - self._epoch * length
        if not 0 <= done <= length:
            raise ValueError(
                f'cannot resume: the checkpoint was written after {self._iter} iterations and {self._epoch} epochs, '
                f'which have {length} iterations each here; the number of images, the batch size or the number of '
                'processes was another'
            )
        return done

    def _digest(self) -> int | None:
        """Checksum of the images of the epoch so far; a checkpoint knows that of rank 0, which wrote it."""
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
                f'train_dataloader gave {done} batches in epoch {self._epoch + 1}, its length says '
                f'{len(self.dataloader)}; the place in an epoch cannot be told from the number of iterations then'
            )


def _require_fixed_seed(randomness: dict) -> None:
    if randomness.get('seed') is None:
        raise ValueError(
            'randomness.seed is None: samplers are built before a checkpoint brings its seed back, so a resumed run '
            'would see other images; set randomness=dict(seed=0), or another number'
        )
    if randomness.get('diff_rank_seed', False):
        raise ValueError(
            'randomness.diff_rank_seed is True: samplers then draw a seed of their own, which no resumed run knows; '
            'leave it out, ResumableEpochTrainLoop gives each rank random numbers of its own'
        )
