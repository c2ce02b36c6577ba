"""Annotations: what detections are held against, read from a store or straight from the official CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.metric.ground_truth import GroundTruth
from mmoid.openimages.metric.protocol import Protocol
from mmoid.openimages.readers.csv_files import (
    COORDINATES,
    line_of_row,
    number_rows,
    read_boxes,
    read_classes,
    read_image_labels,
)
from mmoid.openimages.store.annotation_store import AnnotationStore


@dataclass(frozen=True, eq=False)
class Annotations:
    """Boxes and image-level labels of an evaluation set, as annotated.

    Attributes:
        image_ids: N ids: every image that occurs in boxes or labels.
        label_names: MIDs of the C classes by index.
        class_names: Their display names.
        hierarchy: Over the same classes; None: not given.
        image: (B,) int image index of a box.
        label: (B,) int class index.
        box: (B, 4) float64 xmin, ymin, xmax, ymax as fractions of the image size.
        is_group_of: (B,) bool.
        label_image: (L,) int image index of an image-level label.
        label_class: (L,) int class index.
        label_confidence: (L,) float: 0 verified absent, above it present.
    """

    image_ids: Sequence[str]
    label_names: tuple[str, ...]
    class_names: tuple[str, ...]
    hierarchy: ClassHierarchy | None
    image: np.ndarray
    label: np.ndarray
    box: np.ndarray
    is_group_of: np.ndarray
    label_image: np.ndarray
    label_class: np.ndarray
    label_confidence: np.ndarray

    def require_hierarchy(self, what_for: str) -> ClassHierarchy:
        """The hierarchy, or an AnnotationError that says what for it is needed."""
        if self.hierarchy is None:
            raise AnnotationError(f'hierarchy: is needed for {what_for}; give the hierarchy JSON of these classes')
        return self.hierarchy

    def ground_truth(self, protocol: Protocol) -> GroundTruth:
        """Prepared as the protocol says."""
        return GroundTruth.build(
            num_images=len(self.image_ids),
            num_classes=len(self.label_names),
            image=self.image,
            label=self.label,
            box=self.box,
            is_group_of=self.is_group_of,
            label_image=self.label_image,
            label_class=self.label_class,
            label_confidence=self.label_confidence,
            hierarchy=self.require_hierarchy('the challenge protocol') if protocol.is_challenge else None,
            verified_only=protocol.is_challenge,
        )


def annotations_of_store(store: AnnotationStore, label_names: Sequence[str] | None = None) -> Annotations:
    """Those of a prepared split.

    Args:
        store: The split.
        label_names: MIDs of the classes to keep, by their new index; boxes and labels of others are left out. None:
            all, as in the store.

    Raises:
        AnnotationError: A class that the store does not have.
    """
    names = store.label_names if label_names is None else tuple(label_names)
    of_store = {name: i for i, name in enumerate(store.label_names)}
    unknown = [name for name in names if name not in of_store]
    if unknown:
        raise AnnotationError(f'{store.path}: does not have the class {unknown[0]!r}')
    chosen = np.array([of_store[name] for name in names], dtype=np.int64)
    new_label = np.full(store.num_classes, -1, dtype=np.int32)
    new_label[chosen] = np.arange(len(names))
    label, label_class = new_label[store.box_label], new_label[store.image_label]
    box, verified = label >= 0, label_class >= 0
    return Annotations(
        image_ids=store.image_ids(),
        label_names=names,
        class_names=tuple(store.class_names[i] for i in chosen),
        hierarchy=ClassHierarchy(store.metadata['hierarchy'], names, source=str(store.path)),
        image=store.image_of_box()[box],
        label=label[box],
        box=store.box[box],
        is_group_of=store.is_group_of[box] == 1,
        label_image=store.image_of_label()[verified],
        label_class=label_class[verified],
        label_confidence=store.image_label_confidence[verified],
    )


def read_annotations(
    boxes: str | Path,
    classes: str | Path,
    hierarchy: str | Path | None = None,
    image_labels: str | Path | None = None,
) -> Annotations:
    """Reads the official files. No pictures and no sizes are needed: all coordinates are fractions.

    Args:
        boxes: Box CSV.
        classes: Class descriptions CSV; its order is the order of class indices.
        hierarchy: Hierarchy JSON; the challenge protocol needs it.
        image_labels: Human-verified image-level labels CSV.

    Raises:
        AnnotationError: Anything that does not fit, by file and line.
    """
    names = read_classes(classes)
    graph = None if hierarchy is None else ClassHierarchy.from_json(hierarchy, names.label_names)
    box_table = read_boxes(boxes)
    label = _require_known(boxes, box_table, names)
    ids = box_table['ImageID'].chunks
    label_class, confidence = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)
    if image_labels is not None:
        label_table = read_image_labels(image_labels)
        label_class = _require_known(image_labels, label_table, names)
        confidence = label_table['Confidence'].to_numpy()
        ids = ids + label_table['ImageID'].chunks
    # Numbered as a store numbers them, so that equal scores fall in the same order and both give the same figure.
    image_ids, image = number_rows(pa.chunked_array(ids, pa.string()))
    return Annotations(
        image_ids=image_ids.to_pylist(),
        label_names=names.label_names,
        class_names=names.display_names,
        hierarchy=graph,
        image=image[: len(label)],
        label=label,
        box=np.stack([box_table[name].to_numpy() for name in COORDINATES], axis=1),
        is_group_of=box_table['IsGroupOf'].to_numpy() == 1,
        label_image=image[len(label) :],
        label_class=label_class,
        label_confidence=confidence,
    )


def _require_known(path: str | Path, table: pa.Table, classes: ClassNames) -> np.ndarray:
    label = classes.find(table['LabelName'])
    if (label < 0).any():
        row = int(np.argmax(label < 0))
        remedy = (
            'give the classes of this file, or make a store without such rows '
            '(tools/dataset_converters/prepare_openimages.py --other-classes drop) and evaluate on that (--store)'
        )
        raise classes.unknown(table['LabelName'][row].as_py(), f'{path}:{line_of_row(path, row)}', remedy)
    return label
