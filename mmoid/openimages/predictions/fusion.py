"""Fusion: how overlapping detections of one image become one, by the package ensemble-boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np

from mmoid.openimages.boxes import has_area

METHODS = ('nms', 'soft_nms', 'nmw', 'wbf')
CONFIDENCE_TYPES = ('avg', 'max', 'box_and_model_avg', 'absent_model_aware_avg')
SOFT_NMS_DECAYS = ('linear', 'gaussian')


@dataclass(frozen=True)
class Fusion:
    """Settings of :func:`fuse`. Defaults are those of ensemble-boxes.

    Attributes:
        method: ``nms``, ``soft_nms``, ``nmw`` (non-maximum weighted) or ``wbf`` (weighted boxes fusion).
        iou_threshold: Boxes of a class that overlap more are one object.
        skip_score: Detections below it are left out first.
        confidence: ``conf_type`` of WBF, the score of a fused box. With ``avg`` and ``max``, overlapping detections of
            one model count like those of several; with ``box_and_model_avg`` and ``absent_model_aware_avg`` not.
        allows_overflow: For WBF with ``avg``: more boxes than models raise a score above 1.
        sigma: Of the gaussian decay of soft-NMS.
        decay: Of soft-NMS.
        least_score: Soft-NMS drops detections that decay to this score or below.
        max_per_image: Best-scored fused detections of an image that are kept; None: all.

    Raises:
        ValueError: A setting out of range.
        ImportError: ensemble-boxes is not installed.
    """

    method: Literal['nms', 'soft_nms', 'nmw', 'wbf'] = 'wbf'
    iou_threshold: float = 0.55
    skip_score: float = 0.0
    confidence: Literal['avg', 'max', 'box_and_model_avg', 'absent_model_aware_avg'] = 'avg'
    allows_overflow: bool = False
    sigma: float = 0.5
    decay: Literal['linear', 'gaussian'] = 'gaussian'
    least_score: float = 0.001
    max_per_image: int | None = None

    def __post_init__(self) -> None:
        for name, known in (('method', METHODS), ('confidence', CONFIDENCE_TYPES), ('decay', SOFT_NMS_DECAYS)):
            if getattr(self, name) not in known:
                raise ValueError(f'{name} must be one of {", ".join(known)}, got {getattr(self, name)!r}')
        if not 0 < self.iou_threshold < 1:
            raise ValueError(f'iou_threshold must be between 0 and 1, got {self.iou_threshold}')
        if not self.sigma > 0:
            raise ValueError(f'sigma must be above 0, got {self.sigma}')
        if self.max_per_image is not None and self.max_per_image < 1:
            raise ValueError(f'max_per_image must be at least 1, got {self.max_per_image}')
        try:
            import_module('ensemble_boxes')
        except ImportError as error:
            raise ImportError(f"fusing needs ensemble-boxes: pip install 'mmoid[ensemble]' ({error})") from error

    def usable(self, score: np.ndarray, box: np.ndarray) -> np.ndarray:
        """(D,) bool: detections that take part: area in the image, a score above 0 and not below ``skip_score``."""
        used: np.ndarray = has_area(np.clip(box, 0, 1)) & (score > 0) & (score >= score.dtype.type(self.skip_score))
        return used


def fuse(
    fusion: Fusion,
    boxes: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fuses the detections of M models on one image. Boxes of different classes are independent.

    Args:
        fusion: Settings; ``max_per_image`` is for the caller.
        boxes: M arrays (n_m, 4) float64 in [0, 1], all of them usable (:meth:`Fusion.usable`).
        scores: M arrays (n_m,).
        labels: M arrays (n_m,) of class indices.
        weights: M weights above 0. None: scores are not scaled. NMS and soft-NMS scale scores by weight / sum of
            weights, NMW by weight / greatest weight.

    Returns:
        (n, 4) boxes, (n,) scores, both float64, and (n,) int64 class indices, in no particular order.
    """
    if not sum(map(len, scores)):
        return np.empty((0, 4)), np.empty(0), np.empty(0, dtype=np.int64)
    import ensemble_boxes  # half a second

    scores = [score.astype(np.float64) for score in scores]
    options: dict[str, Any] = dict(weights=weights, iou_thr=fusion.iou_threshold)
    if fusion.method == 'soft_nms':
        box, score, label = _soft_nms(fusion, boxes, scores, labels, weights)
    elif fusion.method == 'nms':
        box, score, label = ensemble_boxes.nms(boxes, scores, labels, **options)
    else:
        # These loop over single boxes: plain lists take half the time of arrays.
        lists = [[part.tolist() for part in parts] for parts in (boxes, scores, labels)]
        if fusion.method == 'nmw':
            found = ensemble_boxes.non_maximum_weighted(*lists, **options)
        else:
            options |= dict(conf_type=fusion.confidence, allows_overflow=fusion.allows_overflow)
            found = ensemble_boxes.weighted_boxes_fusion(*lists, **options)
        box, score, label = (np.asarray(column, dtype=np.float64) for column in found)
    # WBF gives more than 1 for overlapping boxes of a model with a high weight.
    return box, score if fusion.allows_overflow else np.minimum(score, 1), label.astype(np.int64)


def _soft_nms(
    fusion: Fusion,
    boxes: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    weights: Sequence[float] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Soft-NMS with decayed scores. ``ensemble_boxes.soft_nms`` returns the original ones, so duplicates rank high."""
    from ensemble_boxes.ensemble_boxes_nms import cpu_soft_nms_float

    if weights is not None:
        scores = [score * weight / sum(weights) for score, weight in zip(scores, weights)]
    box, score, label = np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels)
    method = 1 + SOFT_NMS_DECAYS.index(fusion.decay)
    kept, decayed = [], []
    for one in np.unique(label):
        rows = np.flatnonzero(label == one)
        values = score[rows]  # decayed in place
        found = cpu_soft_nms_float(box[rows], values, fusion.iou_threshold, fusion.sigma, fusion.least_score, method)
        kept.append(rows[found])
        decayed.append(values[values > fusion.least_score])
    row = np.concatenate(kept)
    return box[row], np.concatenate(decayed), label[row]
