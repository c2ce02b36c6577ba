"""ResumableTestLoop: a test that goes on where it was killed, from the predictions that a PredictionDump has kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmdet.registry import LOOPS
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner, TestLoop
from torch.utils.data import BatchSampler, DataLoader

from mmoid.evaluation.challenge_metric import OpenImagesChallengeMetric
from mmoid.evaluation.prediction_dump import PredictionDump
from mmoid.openimages.errors import AnnotationError


@LOOPS.register_module()
class ResumableTestLoop(TestLoop):
    """mmengine's test loop; with a :class:`PredictionDump` among the metrics, one that outlives a killed run.

    Images whose predictions are there are not loaded again: the metrics get them from the shards. So a run that was
    killed ends with the bytes and the mAP of one that was not, whatever the number of processes. Each image is tested
    once; no process gets some twice to even out their number.

    Args:
        runner: The runner.
        dataloader: As for ``TestLoop``; images in order, without a batch sampler of its own.
        evaluator: As for ``TestLoop``.
        fp16: As for ``TestLoop``.

    Raises:
        AnnotationError: When it begins: the shards belong to another checkpoint, model, data set or batch size.
        ValueError: A loader that is not as said; when a run goes on, a metric that needs more than predictions.
    """

    def __init__(self, runner: Runner, dataloader: Any, evaluator: Any, fp16: bool = False) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        dumps = [metric for metric in self.evaluator.metrics if isinstance(metric, PredictionDump)]
        if len(dumps) > 1:
            raise ValueError(f'test_evaluator: holds {len(dumps)} PredictionDump, of which one is enough')
        self.dump = dumps[0] if dumps else None
        if self.dump is not None:
            _require_order(self.dataloader)

    def run(self) -> dict:
        if self.dump is not None:
            self._resume(self.dump)
        return super().run()

    def _resume(self, dump: PredictionDump) -> None:
        """Leaves to the loader what is still to do, and gives the rest to the metrics."""
        dataset = self.dataloader.dataset
        images = dump.open(self._plan(), len(dataset), self.dataloader.batch_size)
        self.dataloader.batch_sampler.sampler = images
        others = [metric for metric in self.evaluator.metrics if metric is not dump]
        for (first, last), samples in dump.earlier():
            _require_replayable(others, dump)
            for place, sample in ((first, samples[0]), (last - 1, samples[-1])):
                own = str(dataset.get_data_info(place)['img_id'])
                if own != sample['img_id']:
                    raise AnnotationError(
                        f'{dump.out}.parts: has image {sample["img_id"]!r} in place {place}, where the data set has '
                        f'{own!r}; it has changed. Throw the parts away with restart=True (--restart)'
                    )
            for metric in others:
                metric.process({}, samples)

    def _plan(self) -> dict[str, Any]:
        """All that the predictions depend on."""
        cfg: Config = self.runner.cfg
        return {
            'checkpoint': _identity(self.runner._load_from),
            'model': _text(cfg.get('model')),
            'data_set': _text(cfg.get('test_dataloader', {}).get('dataset')),
            'fp16': self.fp16,
        }


def _identity(checkpoint: str | None) -> list[Any]:
    """Size and time of a file; what is no file here, such as an address, stands for itself."""
    if checkpoint is None or not Path(checkpoint).is_file():
        return [checkpoint]
    status = Path(checkpoint).stat()
    return [status.st_size, status.st_mtime_ns]


def _text(settings: Any) -> str:
    """A part of a config as text, keys in order; what JSON does not know by its ``str``."""
    return json.dumps(settings, sort_keys=True, default=str)


def _require_order(loader: DataLoader) -> None:
    sampler = loader.sampler if isinstance(loader.sampler, DefaultSampler) else None
    if type(loader.batch_sampler) is not BatchSampler or sampler is None or sampler.shuffle or loader.drop_last:
        raise ValueError(
            "test_dataloader: to write predictions it needs sampler=dict(type='DefaultSampler', shuffle=False), "
            'drop_last=False and no batch_sampler, so that a killed run knows which images it had tested'
        )


def _require_replayable(metrics: list[BaseMetric], dump: PredictionDump) -> None:
    for metric in metrics:
        if not isinstance(metric, OpenImagesChallengeMetric):
            raise ValueError(
                f'test_evaluator: {type(metric).__name__} needs more than the predictions kept in {dump.out}.parts; '
                'leave it out to go on, or begin anew with restart=True (--restart)'
            )
