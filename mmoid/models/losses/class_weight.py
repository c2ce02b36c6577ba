"""Weights of classes, from whatever a config gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from mmoid.models.class_graph import label_names_of
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.sampling.soft_balance import effective_number_weights
from mmoid.openimages.store.annotation_store import AnnotationStore

ClassWeight: TypeAlias = 'Sequence[float] | np.ndarray | Mapping[str, object]'


def class_weights(
    source: ClassWeight,
    num_classes: int,
    label_names: tuple[str, ...] | None,
    with_descendants: bool,
    classes: Sequence[str] | None = None,
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Reads ``loss_cls.class_weight``.

    Args:
        source: C numbers >= 0, or ``dict(store=folder, beta=β)``: effective-number weights from the boxes of a store.
        num_classes: C.
        label_names: MIDs by class index. None: those of ``classes``.
        with_descendants: Count the boxes of a class's descendants too: they are trained on as its own.
        classes: Names or MIDs by class index. None: the store's own.

    Returns:
        (C,) float32, and the MIDs by class index as far as known.

    Raises:
        AnnotationError: Another number of weights, other keys, a store that does not know the classes.
    """
    if isinstance(source, Mapping):
        if set(source) != {'store', 'beta'}:
            raise AnnotationError(f'loss_cls.class_weight: expects the keys store and beta, got {sorted(source)}')
        beta = source['beta']
        if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta < 1:
            raise AnnotationError(f'loss_cls.class_weight.beta (β) must be in [0, 1), got {beta!r}')
        store = AnnotationStore(str(source['store']))
        boxes = store.class_box_counts
        if with_descendants:
            boxes = boxes + boxes @ store.hierarchy.ancestor_matrix
        label_names = label_names or label_names_of(store.path, classes, 'loss_cls') or store.label_names
        index = {name: i for i, name in enumerate(store.label_names)}
        unknown = [name for name in label_names if name not in index]
        if unknown:
            raise AnnotationError(f'loss_cls.class_weight: {unknown[0]!r} is no class of {store.path}')
        weights = effective_number_weights(boxes[[index[name] for name in label_names]], beta)
    else:
        try:
            weights = np.asarray(source, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise AnnotationError(f'loss_cls.class_weight: expects {num_classes} numbers ({error})') from error
    if weights.ndim != 1:
        raise AnnotationError(f'loss_cls.class_weight: expects {num_classes} numbers, got {source!r}')
    if weights.shape != (num_classes,):
        raise AnnotationError(f'loss_cls.class_weight: is for {len(weights)} classes, num_classes is {num_classes}')
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise AnnotationError(f'loss_cls.class_weight: must be >= 0, got {weights.min():g}')
    return weights.astype(np.float32), label_names
