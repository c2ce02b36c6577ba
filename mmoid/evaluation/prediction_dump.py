"""PredictionDump: writes what a model finds into a PredictionStore."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmoid.openimages.arrow_folder import require_replaceable
from mmoid.openimages.predictions import write_predictions

from .detections import ImageDetections, image_detections


@METRICS.register_module()
class PredictionDump(BaseMetric):
    """No metric: keeps all predictions and writes them at the end (``tools/test.py --out``).

    Args:
        out: Folder of the :class:`mmoid.openimages.predictions.PredictionStore`. One that is there is replaced.

    Raises:
        AnnotationError: At the start: ``out`` exists and is something else.
    """

    default_prefix = 'predictions'

    def __init__(self, out: str) -> None:
        require_replaceable(out, overwrite=True)
        super().__init__()
        self.out = out

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        self.results += image_detections(data_samples)

    def compute_metrics(self, results: list[ImageDetections]) -> dict:
        # A distributed sampler gives some images twice to even out the ranks.
        images = list({image.image_id: image for image in results}.values())
        write_predictions(
            self.out,
            image_ids=[image.image_id for image in images],
            detections_per_image=np.array([len(image.label) for image in images]),
            label=np.concatenate([np.empty(0, dtype=np.int32), *(image.label for image in images)]),
            score=np.concatenate([np.empty(0, dtype=np.float32), *(image.score for image in images)]),
            box=np.concatenate([np.empty((0, 4)), *(image.box for image in images)]),
            label_names=self.dataset_meta.get('label_names', self.dataset_meta['classes']),
            class_names=self.dataset_meta['classes'],
            overwrite=True,
        )
        print_log(f'Wrote the predictions on {len(images)} images to {self.out}', logger='current')
        return {}
