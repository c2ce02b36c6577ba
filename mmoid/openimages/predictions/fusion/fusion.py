"""Fusion: how overlapping detections of one image become one, by ensemble-boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np

from mmoid.openimages.errors import AnnotationError

METHODS = ('nms', 'soft_nms', 'nmw', 'wbf')
CONFIDENCE_TYPES = ('avg', 'max', 'box_and_model_avg', 'absent_model_aware_avg')
SOFT_NMS_DECAYS = ('linear', 'gaussian')
_NUMBER_OF_DECAY = {'linear': 1, 'gaussian': 2}


@dataclass(frozen=True)
class Fusion:
    """Settings. Defaults are those of ensemble-boxes, but for the scores of soft-NMS.

    Attributes:
        method: ``nms``, ``soft_nms``, ``nmw`` (non-maximum weighted) or ``wbf`` (weighted boxes fusion).
        iou_threshold: Boxes of a class that overlap more are one object.
        skip_score: Detections below it are left out first.
        confidence: WBF's score of a fused box, its ``conf_type``. Detections of one model that overlap count like
            those of several with ``avg`` and ``max``; ``box_and_model_avg`` and ``absent_model_aware_avg`` know better.
        allows_overflow: WBF with ``avg``: more boxes than models raise a score above 1.
        sigma: Soft-NMS with gaussian decay.
        decay: Of soft-NMS.
        least_score: Soft-NMS drops what decays to this or below.
        most_per_image: Best-scored fused detections of an image that are kept; None: all.

    Raises:
        AnnotationError: A name or number out of range.
    """

    method: Literal['nms', 'soft_nms', 'nmw', 'wbf'] = 'wbf'
    iou_threshold: float = 0.55
    skip_score: float = 0.0
    confidence: Literal['avg', 'max', 'box_and_model_avg', 'absent_model_aware_avg'] = 'avg'
    allows_overflow: bool = False
    sigma: float = 0.5
    decay: Literal['linear', 'gaussian'] = 'gaussian'
    least_score: float = 0.001
    most_per_image: int | None = None

    def __post_init__(self) -> None:
        for name, known in (('method', METHODS), ('confidence', CONFIDENCE_TYPES), ('decay', SOFT_NMS_DECAYS)):
            if getattr(self, name) not in known:
                raise AnnotationError(f'{name} must be one of {", ".join(known)}, got {getattr(self, name)!r}')
        if not 0 < self.iou_threshold < 1:
            raise AnnotationError(f'iou_threshold must be between 0 and 1, got {self.iou_threshold}')
        if not self.sigma > 0:
            raise AnnotationError(f'sigma must be above 0, got {self.sigma}')
        if self.most_per_image is not None and self.most_per_image < 1:
            raise AnnotationError(f'most_per_image must be at least 1, got {self.most_per_image}')


def require_ensemble_boxes() -> ModuleType:
    """The package, which only this needs.

    Raises:
        AnnotationError: It is not installed.
    """
    try:
        import ensemble_boxes
    except ImportError as error:
        raise AnnotationError(
            f"ensembles need the package ensemble-boxes ({error}); install it with: pip install 'mmoid[ensemble]'"
        ) from error
    return ensemble_boxes


def fuse(
    fusion: Fusion,
    boxes: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fuses the detections that M models made on one image. Boxes of different classes never meet.

    Args:
        fusion: Settings; ``skip_score`` and ``most_per_image`` are not for here.
        boxes: (n_m, 4) float64 each, in [0, 1], none without area.
        scores: (n_m,) float64 each, above 0.
        labels: (n_m,) class indices each.
        weights: M weights above 0. None: all alike. NMS and soft-NMS scale scores by weight / sum of weights, NMW by
            weight / greatest weight.

    Returns:
        (n, 4) boxes, (n,) scores, both float64, and (n,) int64 class indices, in no particular order.
    """
    package = require_ensemble_boxes()
    if not sum(len(part) for part in scores):
        return np.empty((0, 4)), np.empty(0), np.empty(0, dtype=np.int64)
    # ensemble-boxes writes into the lists it is given.
    weights = None if weights is None else list(weights)
    if fusion.method == 'nms':
        found = package.nms(list(boxes), list(scores), list(labels), iou_thr=fusion.iou_threshold, weights=weights)
    elif fusion.method == 'soft_nms':
        found = _soft_nms(fusion, boxes, scores, labels, weights)
    else:
        # It goes through them box by box: plain lists take half the time of arrays.
        lists = [[part.tolist() for part in parts] for parts in (boxes, scores, labels)]
        if fusion.method == 'nmw':
            found = package.non_maximum_weighted(*lists, weights=weights, iou_thr=fusion.iou_threshold)
        else:
            found = package.weighted_boxes_fusion(
                *lists,
                weights=weights,
                iou_thr=fusion.iou_threshold,
                conf_type=fusion.confidence,
                allows_overflow=fusion.allows_overflow,
            )
    box, score, label = found
    return np.asarray(box, dtype=np.float64), np.asarray(score, dtype=np.float64), np.asarray(label).astype(np.int64)


def _soft_nms(
    fusion: Fusion,
    boxes: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    weights: Sequence[float] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Soft-NMS with the scores that it decays to.

    ``ensemble_boxes.soft_nms`` keeps the same boxes but gives their scores as they were before, so that every duplicate
    ranks as high as ever. Its inner function decays them in place.
    """
    from ensemble_boxes.ensemble_boxes_nms import cpu_soft_nms_float

    if weights is not None:
        total = sum(weights)
        scores = [score * weight / total for score, weight in zip(scores, weights)]
    box, score, label = np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels)
    order = np.argsort(label, kind='stable')
    kept, decayed = [], []
    for rows in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        values = score[rows]
        found = cpu_soft_nms_float(
            box[rows],
            values,
            Nt=fusion.iou_threshold,
            sigma=fusion.sigma,
            thresh=fusion.least_score,
            method=_NUMBER_OF_DECAY[fusion.decay],
        )
        kept.append(rows[found])
        decayed.append(values[values > fusion.least_score])
    row = np.concatenate(kept)
    return box[row], np.concatenate(decayed), label[row]
