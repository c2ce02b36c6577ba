"""Summary: what went into an AnnotationStore, what came out, and what was left out and why."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa


@dataclass
class Summary:
    """What a conversion read and wrote. ``dropped`` says how many of what, and why."""

    box_rows: int = 0
    label_rows: int = 0
    images: int = 0
    images_without_boxes: int = 0
    boxes: int = 0
    group_of_boxes: int = 0
    boxes_of_unknown_group_of: int = 0
    image_labels: int = 0
    classes: int = 0
    classes_with_boxes: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def count(self, tables: Mapping[str, pa.Table]) -> None:
        """Counts what the tables of the store hold."""
        boxes_per_image = np.diff(tables['images']['box_stop'].to_numpy(), prepend=0)
        self.images = len(tables['images'])
        self.images_without_boxes = int((boxes_per_image == 0).sum())
        self.boxes = len(tables['boxes'])
        is_group_of = tables['boxes']['IsGroupOf'].to_numpy()
        self.group_of_boxes = int((is_group_of == 1).sum())
        self.boxes_of_unknown_group_of = int((is_group_of == -1).sum())
        self.image_labels = len(tables['labels'])
        self.classes = len(tables['classes'])
        self.classes_with_boxes = int((tables['classes']['box_count'].to_numpy() > 0).sum())

    def drop(self, what_and_why: str, count: int) -> None:
        """Adds to ``dropped``; nothing is said of what did not happen."""
        if count:
            self.dropped[what_and_why] = self.dropped.get(what_and_why, 0) + int(count)


def fingerprint(path: str | Path) -> dict[str, str | int]:
    """Name, size, time and SHA-256 of a source file, as a store records them."""
    with open(path, 'rb') as stream:
        digest = hashlib.file_digest(stream, 'sha256') if hasattr(hashlib, 'file_digest') else _digest(stream)
    status = os.stat(path)
    return {
        'name': Path(path).name,
        'bytes': status.st_size,
        'modified_ns': status.st_mtime_ns,
        'sha256': digest.hexdigest(),
    }


def _digest(stream: BinaryIO) -> hashlib._Hash:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest
