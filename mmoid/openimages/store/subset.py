"""Some images of an AnnotationStore as stores of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from mmoid.openimages.ragged import gather_rows
from mmoid.openimages.readers.csv_files import FLAGS
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.openimages.store.arrow_folder import map_tables, require_replaceable, write_folder
from mmoid.openimages.store.summary import Summary
from mmoid.openimages.store.writing import Content, Rows, image_folder_entry, write_store
from mmoid.utils.progress import Progress, no_progress


def subset_stores(
    parent: AnnotationStore,
    parts: Mapping[Path, np.ndarray],
    made_by: Mapping[str, Any],
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> list[Summary]:
    """Writes a store for each part, and returns their summaries. All classes are kept. If one fails, none is made.

    A part is the folder of a new store with its images: (n,) indices, each once. They keep the order of the parent.
    ``made_by`` has JSON values that say how they were chosen, for ``subset`` in ``metadata.json``. Progress is
    in stores.

    Raises:
        ValueError: A path inside or above the parent.
        OSError: A folder that may not be replaced.
    """
    require_writable(parent, list(parts), overwrite)
    contents = [_content(parent, np.sort(images)) for images in parts.values()]
    origin = {'parent': parent.path.resolve().name, 'parent_images': parent.num_images, **made_by}
    if 'subset' in parent.metadata:
        origin['parent_subset'] = parent.metadata['subset']
    with ExitStack() as stack:
        for done, (path, content) in enumerate(zip(parts, contents), 1):
            images, root = parent.image_folder, parent.path.resolve().parent
            entry = None if images is None else image_folder_entry(images, path, root)
            metadata = {'sources': parent.metadata['sources'], 'subset': origin, 'image_folder': entry}
            write_store(stack.enter_context(write_folder(path, overwrite)), content, metadata)
            progress('writing stores', done, len(parts))
    return [content.summary for content in contents]


def require_writable(parent: AnnotationStore, paths: Sequence[Path], overwrite: bool) -> None:
    """Raises unless every path may take a subset of ``parent``. Call it before long work."""
    home = parent.path.resolve()
    for path in paths:
        if (new := Path(path).resolve()).is_relative_to(home) or home.is_relative_to(new):
            raise ValueError(f'{path}: overlaps the store {parent.path}, which is read; give another --out')
        require_replaceable(path, overwrite)


def _content(parent: AnnotationStore, images: np.ndarray) -> Content:
    new_image = np.arange(len(images))
    counts, box = gather_rows(parent.box_stop, images)
    columns = {'box': parent.box[box], **{name: parent.flag(name)[box] for name in FLAGS}}
    boxes = Rows(np.repeat(new_image, counts), parent.box_label[box], columns)
    counts, label = gather_rows(parent.label_stop, images)
    confidence = {'confidence': parent.image_label_confidence[label]}
    labels = Rows(np.repeat(new_image, counts), parent.image_label[label], confidence)
    summary = Summary(box_rows=parent.num_boxes, label_rows=len(parent.image_label))
    summary.drop('images of other subsets or none', parent.num_images - len(images))
    summary.drop('boxes of images of other subsets or none', parent.num_boxes - len(boxes))
    left_out = len(parent.image_label) - len(labels)
    summary.drop('image-level labels of images of other subsets or none', left_out)
    table = map_tables(parent.path, ('images',))['images'].take(images)
    return Content(table, boxes, labels, parent.classes, parent.metadata['hierarchy'], summary, parent.upright)
