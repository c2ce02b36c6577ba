"""ResumableTestLoop: a test that resumes where it was killed, from the shards of a PredictionDump."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmdet.registry import LOOPS
from mmengine.dataset import DefaultSampler
from mmengine.runner import Runner, TestLoop
from torch.utils.data import BatchSampler

from mmoid.evaluation.challenge_metric import OpenImagesChallengeMetric
from mmoid.evaluation.prediction_dump import PredictionDump
from mmoid.openimages.errors import AnnotationError


@LOOPS.register_module()
class ResumableTestLoop(TestLoop):
    """mmengine's ``TestLoop`` that can be killed and resumed if a :class:`PredictionDump` is among the metrics.

    Images that were tested before are not loaded again: metrics get their predictions from the shards. A resumed run
    gives the same bytes and the same mAP as an uninterrupted one, with any number of processes. Each image is tested
    once; no process repeats images to even out their number.

    Args:
        runner: The runner.
        dataloader: As for ``TestLoop``. Images in order, without a batch sampler of its own.
        evaluator: As for ``TestLoop``.
        fp16: As for ``TestLoop``.

    Raises:
        ValueError: A loader of another kind; on resuming, a metric that needs more than predictions.
        AnnotationError: On starting: there are shards of another checkpoint, model, data set or batch size.
    """

    def __init__(self, runner: Runner, dataloader: Any, evaluator: Any, fp16: bool = False) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        dumps = [metric for metric in self.evaluator.metrics if isinstance(metric, PredictionDump)]
        if len(dumps) > 1:
            raise ValueError(f'test_evaluator: expects at most one PredictionDump, got {len(dumps)}')
        self.dump = dumps[0] if dumps else None
        loader = self.dataloader
        sampler = loader.sampler if isinstance(loader.sampler, DefaultSampler) else None
        in_order = type(loader.batch_sampler) is BatchSampler and sampler is not None and not sampler.shuffle
        if self.dump is not None and (not in_order or loader.drop_last):
            raise ValueError(
                "test_dataloader: to write predictions it needs sampler=dict(type='DefaultSampler', shuffle=False), "
                'drop_last=False and no batch_sampler, so that a resumed run knows which images were tested'
            )

    def run(self) -> dict:
        if self.dump is not None:
            self._resume(self.dump)
        return super().run()

    def _resume(self, dump: PredictionDump) -> None:
        """Gives the metrics what was tested before, and leaves the rest to the loader."""
        dataset = self.dataloader.dataset
        images = dump.open(self._plan(), len(dataset), self.dataloader.batch_size)
        self.dataloader.batch_sampler.sampler = images
        others = [metric for metric in self.evaluator.metrics if metric is not dump]
        for (first, last), samples in dump.earlier():
            for index, sample in ((first, samples[0]), (last - 1, samples[-1])):
                own = str(dataset.get_data_info(index)['img_id'])
                if own != sample['img_id']:
                    raise AnnotationError(
                        f'{dump.out}.parts: image {index} is {sample["img_id"]!r}, in the data set it is {own!r}; the '
                        'data set has changed. Remove the shards with restart=True (--restart)'
                    )
            for metric in others:
                if not isinstance(metric, OpenImagesChallengeMetric):
                    raise ValueError(
                        f'test_evaluator: {type(metric).__name__} needs more than the predictions in {dump.out}.parts; '
                        'leave it out to resume, or start again with restart=True (--restart)'
                    )
                metric.process({}, samples)

    def _plan(self) -> dict[str, Any]:
        """Everything that the predictions depend on."""
        cfg, checkpoint = self.runner.cfg, self.runner._load_from
        identity = [checkpoint]
        if checkpoint is not None and Path(checkpoint).is_file():
            status = Path(checkpoint).stat()
            identity = [status.st_size, status.st_mtime_ns]
        return {
            'checkpoint': identity,
            'model': _text(cfg.get('model')),
            'data_set': _text(cfg.get('test_dataloader', {}).get('dataset')),
            'fp16': self.fp16,
        }


def _text(settings: Any) -> str:
    """Part of a config as text, with sorted keys. Values that JSON does not know become their ``str``."""
    return json.dumps(settings, sort_keys=True, default=str)
