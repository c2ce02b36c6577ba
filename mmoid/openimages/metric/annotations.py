"""Annotations of an evaluation set, from a store or straight from the official CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.readers.csv_files import read_classes
from mmoid.openimages.readers.official_csv import read_rows
from mmoid.openimages.store.annotation_store import NOT_EXHAUSTIVE, AnnotationStore
from mmoid.openimages.store.summary import Summary


@dataclass(frozen=True, eq=False)
class Annotations:
    """Boxes and image-level labels of an evaluation set, as annotated."""

    image_ids: Sequence[str]  # N ids: every image that occurs in boxes or labels
    classes: ClassNames  # the C classes
    hierarchy: ClassHierarchy | None  # over the same classes; None: not given
    image: np.ndarray  # (B,) int image index of each box
    label: np.ndarray  # (B,) int class index of each box
    box: np.ndarray  # (B, 4) float64 xmin, ymin, xmax, ymax as fractions of the image size
    is_group_of: np.ndarray  # (B,) bool
    label_image: np.ndarray  # (L,) int image index of each image-level label
    label_class: np.ndarray  # (L,) int class index of each image-level label
    label_confidence: np.ndarray  # (L,) float: 1 verified present, 0 verified absent, ``NOT_EXHAUSTIVE`` as in a store


def annotations_of_store(store: AnnotationStore, label_names: Sequence[str] | None = None) -> Annotations:
    """Annotations of a prepared split.

    Args:
        store: The split.
        label_names: MIDs of the classes to keep, by their new index. Boxes and labels of other classes are left out.
            None: all, in the order of the store.

    Raises:
        AnnotationError: A class that the store does not have, machine-generated labels in a store of version 0.1.
    """
    if not np.isin(store.image_label_confidence, (0, 1, NOT_EXHAUSTIVE)).all():
        raise AnnotationError(
            f'{store.path}: has machine-generated image-level labels, which verify nothing; prepare it again'
        )
    chosen = store.classes.indices(store.label_names if label_names is None else label_names, 'label_names')
    new_label = np.full(store.num_classes, -1, dtype=np.int32)
    new_label[chosen] = np.arange(len(chosen))
    label, label_class = new_label[store.box_label], new_label[store.image_label]
    has_box, has_label = label >= 0, label_class >= 0
    kept = store.classes.subset(chosen)
    return Annotations(
        image_ids=store.image_ids(),
        classes=kept,
        hierarchy=ClassHierarchy(store.metadata['hierarchy'], kept.label_names, source=str(store.path)),
        image=store.image_of_box()[has_box],
        label=label[has_box],
        box=store.box[has_box],
        is_group_of=store.is_group_of[has_box] == 1,
        label_image=store.image_of_label()[has_label],
        label_class=label_class[has_label],
        label_confidence=store.image_label_confidence[has_label],
    )


def read_annotations(
    boxes: str | Path,
    classes: str | Path,
    hierarchy: str | Path | None = None,
    image_labels: str | Path | None = None,
    summary: Summary | None = None,
) -> Annotations:
    """Reads the official files. Neither images nor their sizes are needed.

    Args:
        boxes: Box CSV.
        classes: Class descriptions CSV; its order is the order of class indices.
        hierarchy: Hierarchy JSON; the challenge protocol needs it.
        image_labels: Human-verified image-level labels CSV.
        summary: Counts what is dropped and changed.

    Raises:
        AnnotationError: A file or row that cannot be used, with file and line.
    """
    names = read_classes(classes, summary)
    graph = None if hierarchy is None else ClassHierarchy.from_json(hierarchy, names.label_names)
    remedy = (
        'give the classes of this file, or drop its other rows with mmoid prepare --other-classes drop '
        'and evaluate on that store (--store)'
    )
    summary = Summary() if summary is None else summary
    image_ids, _, box_rows, label_rows = read_rows(boxes, image_labels, names, summary, remedy)
    return Annotations(
        image_ids=image_ids.to_pylist(),
        classes=names,
        hierarchy=graph,
        image=box_rows.image,
        label=box_rows.label,
        box=box_rows.columns['box'],
        is_group_of=box_rows.columns['IsGroupOf'] == 1,
        label_image=label_rows.image,
        label_class=label_rows.label,
        label_confidence=label_rows.columns['confidence'],
    )
