"""Fusing a run of images: what is done to all of their detections at once, and what image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.predictions.fusion.fusion import Fusion, fuse, require_ensemble_boxes
from mmoid.openimages.predictions.fusion.sets import MatchedSets
from mmoid.openimages.predictions.prediction_store import PredictionStore
from mmoid.openimages.ragged import gather_rows


class Detections(NamedTuple):
    """Detections image after image: counts (n,), label (d,), score (d,) float64, box (d, 4) float64."""

    counts: np.ndarray
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray


def fuse_images(
    sets: MatchedSets, stores: Sequence[PredictionStore], fusion: Fusion, first: int, last: int
) -> Detections:
    """Fuses the images ``first`` to ``last`` - 1 of the result; no image's result depends on another's.

    Args:
        sets: The matched sets.
        stores: Their predictions.
        fusion: Settings.
        first: Image index.
        last: Image index.

    Returns:
        The result, best score first.
    """
    require_ensemble_boxes()
    models = [_prepare(sets, store, fusion, m, first, last) for m, store in enumerate(stores)]
    begins = [np.cumsum(model.counts) - model.counts for model in models]
    # Classes on which the models weigh alike go through one call.
    columns, kind = np.unique(sets.weight, axis=1, return_inverse=True)
    kind = kind.reshape(-1)
    parts = []
    for k in range(last - first):
        own = [slice(begin[k], begin[k] + model.counts[k]) for model, begin in zip(models, begins)]
        seen = sets.image[:, first + k] >= 0
        parts.append(_fuse_image(sets, fusion, [(m.box[s], m.score[s], m.label[s]) for m, s in zip(models, own)],
                                 seen, columns, kind))  # fmt: skip
    counts = np.array([len(score) for _, score, _ in parts], dtype=np.int64)
    box, score, label = _together(parts)
    return Detections(counts, label, score, box)


def _prepare(
    sets: MatchedSets, store: PredictionStore, fusion: Fusion, model: int, first: int, last: int
) -> Detections:
    """One model's detections of some images, such as ensemble-boxes takes without a warning."""
    counts, rows = gather_rows(store.detection_stop, sets.image[model, first:last])
    image = np.repeat(np.arange(last - first), counts)
    label, score = sets.label[model][store.label[rows]], store.score[rows]
    box = np.clip(store.box[rows], 0, 1)
    solid = (box[:, 0] < box[:, 2]) & (box[:, 1] < box[:, 3])
    # In float32, as the scores are: 0.01 is not below 0.01.
    kept = np.flatnonzero(solid & (score > 0) & (score >= np.float32(fusion.skip_score)))
    image, label, score, box = image[kept], label[kept], score[kept], box[kept]
    if sets.expand == 'before' and sets.hierarchy is not None:
        source, label = sets.hierarchy.expand_up(label)
        image, score, box = image[source], score[source], box[source]
        best = _best_of_equal(image, label, box, score)
        image, label, score, box = image[best], label[best], score[best], box[best]
    return Detections(np.bincount(image, minlength=last - first), label, score.astype(np.float64), box)


def _best_of_equal(image: np.ndarray, label: np.ndarray, box: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Rows, ascending, without those that a better one of the same image, class and box makes needless."""
    order = np.lexsort((-score, *box.T, label, image))
    fields = (image[order], label[order], *box[order].T)
    first: np.ndarray = np.ones(len(order), dtype=bool)
    first[1:] = np.any([field[1:] != field[:-1] for field in fields], axis=0)
    return np.sort(order[first])


def _fuse_image(
    sets: MatchedSets,
    fusion: Fusion,
    models: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    seen: np.ndarray,
    columns: np.ndarray,
    kind: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Box, score and label of one image's result.

    Args:
        sets: The matched sets.
        fusion: Settings.
        models: Box, score and label of each model's detections.
        seen: (M,) bool, models that were run on the image.
        columns: (M, G) the different columns of the weights.
        kind: (C,) which of them a class has.
    """
    parts = []
    kinds = [kind[label] for _, _, label in models]
    for group in range(columns.shape[1]) if columns.shape[1] == 1 else np.unique(np.concatenate(kinds)):
        weight = columns[:, group]
        voters = np.flatnonzero(seen & (weight > 0))
        chosen = [kinds[m] == group for m in voters]
        boxes, scores, labels = ([models[m][j][rows] for m, rows in zip(voters, chosen)] for j in range(3))
        parts.append(fuse(fusion, boxes, scores, labels, weight[voters].tolist() if sets.weighted else None))
    box, score, label = _together(parts)
    if sets.expand == 'after' and sets.hierarchy is not None:
        box, score, label = _with_ancestors(sets.hierarchy, fusion, box, score, label)
    order = np.argsort(-score, kind='stable')[: fusion.most_per_image]
    return box[order], score[order], label[order]


def _with_ancestors(
    hierarchy: ClassHierarchy, fusion: Fusion, box: np.ndarray, score: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Adds the ancestors of every detection; of those that overlap, the best-scored one stays (NMS).

    What NMS drops, one with at least its score stands for. Where a detection stays, its ancestors were candidates with
    the same box and score: each is there, or overlaps with a better one.
    """
    source, expanded = hierarchy.expand_up(label)
    if len(source) == len(label):
        return box, score, label
    has_descendants = ~hierarchy.is_leaf[expanded]
    leaf, rows = source[~has_descendants], source[has_descendants]
    package = require_ensemble_boxes()
    found = package.nms([box[rows]], [score[rows]], [expanded[has_descendants]], iou_thr=fusion.iou_threshold)
    return _together([(box[leaf], score[leaf], label[leaf]), found])


def _together(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    empty = (np.empty((0, 4)), np.empty(0), np.empty(0, dtype=np.int64))
    boxes, scores, labels = zip(empty, *parts)
    return np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels)
