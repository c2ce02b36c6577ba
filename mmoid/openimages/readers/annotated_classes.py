"""A list of the classes that somebody drew in every image -> image-level labels, which training and metric read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.hierarchy import ClassHierarchy
from mmoid.openimages.image_ids import match_images
from mmoid.openimages.readers.csv_files import class_column, find_column, read_columns, read_header
from mmoid.openimages.store.writing import Content, Rows


def with_annotated_classes(content: Content, path: str | Path | None) -> Content:
    """Adds image-level labels: a listed class is verified present in an image with a box of it, else absent.

    In a merged data set ("cats drawn here, dogs there") a class without a box is absent only where it was looked for.

    Args:
        content: Images, boxes and labels. Image-level labels that are there stay.
        path: CSV with a column ``LabelName``: classes of all images; or with ``ImageID`` too: of some. None: nothing.
            Rows of other images are dropped and counted.

    Raises:
        AnnotationError: A class that the content does not have (the message names the line), an empty list, or one of
            other images only.
    """
    if path is None:
        return content
    by_image = find_column(read_header(path), 'ImageID') is not None
    columns: dict[str, pa.DataType] = {'LabelName': pa.dictionary(pa.int32(), pa.string())}
    table = read_columns(path, columns | ({'ImageID': pa.string()} if by_image else {}))
    if not len(table):
        raise AnnotationError(f'{path}: lists no classes')
    label = class_column(path, table, content.classes, content.summary, 'list only classes of this data set')
    num_images, num_classes = len(content.images), len(content.classes)
    if by_image:
        image = match_images(table['ImageID'].combine_chunks(), content.images['image_id'].combine_chunks())
        other = image < 0
        first = table['ImageID'][int(np.argmax(other))].as_py()
        if other.all():
            raise AnnotationError(f'{path}: none of its images, first {first!r}, is in this data set')
        content.summary.drop('rows of annotated classes of images that are not in the data set', other.sum(), first)
        image, label = image[~other], label[~other]
    else:
        image, label = np.repeat(np.arange(num_images), len(label)), np.tile(label, num_images)
    hierarchy = ClassHierarchy(content.tree, content.classes.label_names, content.classes.source)
    rows, box_label = hierarchy.expand_up(content.boxes.label)
    present = np.unique(content.boxes.image[rows].astype(np.int64) * num_classes + box_label)
    known = content.labels.image.astype(np.int64) * num_classes + content.labels.label
    new = np.setdiff1d(image.astype(np.int64) * num_classes + label, known)
    confidence = np.concatenate([content.labels.columns['confidence'], np.isin(new, present)])
    labels = Rows(
        np.concatenate([content.labels.image, new // num_classes]).astype(np.int32),
        np.concatenate([content.labels.label, new % num_classes]).astype(np.int32),
        {'confidence': confidence.astype(np.float32)},
    )
    content.summary.change('image-level labels added for annotated classes', len(new))
    return replace(content, labels=labels)
