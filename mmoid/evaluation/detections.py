"""A model's output as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class ImageDetections:
    """Detections of one image.

    Attributes:
        sample: Index of the image in the data set.
        image_id: The ImageID.
        label: (D,) class indices.
        score: (D,) float64.
        box: (D, 4) float64 xmin, ymin, xmax, ymax as fractions of the image size.
    """

    sample: int
    image_id: str
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray


def image_detections(data_samples: Sequence[dict[str, Any]]) -> list[ImageDetections]:
    """Takes what an mmengine metric is given and brings boxes to fractions of the original image."""
    found = []
    for sample in data_samples:
        height, width = sample['ori_shape'][:2]
        instances = sample['pred_instances']
        box = instances['bboxes'].detach().cpu().numpy().astype(np.float64) / (width, height, width, height)
        found.append(ImageDetections(
            sample=sample.get('sample_idx', -1),
            image_id=str(sample['img_id']),
            label=instances['labels'].cpu().numpy(),
            score=instances['scores'].detach().to(torch.float64).cpu().numpy(),
            box=box,
        ))  # fmt: skip
    return found
