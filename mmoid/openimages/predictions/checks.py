"""What a single detection must be: the same in every tool, whatever it was read from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mmoid.openimages.boxes import has_area
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.csv_files import COORDINATES

ROUNDING = 1e-3
"""Scores this much outside [0, 1] are taken for 0 or 1."""


@dataclass(frozen=True, eq=False)
class Checked:
    """D detections, checked."""

    score: np.ndarray  # (D,) in [0, 1]
    kept: np.ndarray  # (D,) bool: boxes with area
    left_out: dict[str, int] = field(default_factory=dict)  # detections not kept, by reason with the first place
    changed: dict[str, int] = field(default_factory=dict)  # detections that were changed, likewise


def check_detections(
    score: np.ndarray, box: np.ndarray, place: str | Callable[[int], str], max_score: float = 1.0, farthest: float = 1.0
) -> Checked:
    """Clips scores to [0, 1]; finds boxes without area or with swapped corners.

    Boxes that are partly outside the image stay as they are: the official metric does not clip them.

    Args:
        score: (D,).
        box: (D, 4) xmin, ymin, xmax, ymax as fractions of the image size.
        place: For messages: file or image, or a function from the index of a detection to its file and line.
        max_score: inf: scores above 1 are fine.
        farthest: How far outside the image a coordinate may be. Models put corners a little outside; anything farther
            in a file is pixels.

    Raises:
        AnnotationError: A score or coordinate that is not finite, a score outside [0, 1] by more than rounding, a
            coordinate too far outside the image.
    """

    def place_of(row: np.intp) -> str:
        return place if isinstance(place, str) else place(int(row))

    def require(holds: np.ndarray, name: str, values: np.ndarray, complaint: str) -> None:
        if not holds.all():
            row = np.argmin(holds)
            raise AnnotationError(f'{place_of(row)}: {name} = {values[row]:.9g} {complaint}')

    def count(reason: str, rows: np.ndarray) -> dict[str, int]:
        return {f'{reason} (first: {place_of(np.argmax(rows))})': int(rows.sum())} if rows.any() else {}

    require(np.isfinite(score), 'Score', score, 'must be a finite number')
    require((score >= -ROUNDING) & (score <= max_score + ROUNDING), 'Score', score, 'is outside [0, 1]')
    for name, values in zip(COORDINATES, box.T):
        near = (values >= -farthest) & (values <= 1 + farthest)
        require(near, name, values, 'is far outside [0, 1]; coordinates are fractions of the image size')
    rounded, kept = np.clip(score, 0, max_score), has_area(box)
    return Checked(
        score=rounded,
        kept=kept,
        left_out=count('without area or with swapped corners', ~kept),
        changed=count('scores outside [0, 1] by rounding, clipped', rounded != score),
    )
