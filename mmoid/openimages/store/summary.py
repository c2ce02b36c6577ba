"""Summary: what a conversion read, wrote, left out and changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Summary:
    """Counts of a conversion."""

    box_rows: int = 0
    label_rows: int = 0
    images: int = 0
    images_without_boxes: int = 0
    boxes: int = 0
    boxes_below_a_pixel: int = 0
    group_of_boxes: int = 0
    boxes_of_unknown_group_of: int = 0
    image_labels: int = 0
    classes: int = 0
    classes_with_boxes: int = 0
    # By reason: what was left out; what was clipped, merged, or taken for what it plainly means; file and line of the
    # first case, where there is one.
    dropped: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def drop(self, reason: str, count: int, first: str = '') -> None:
        """Adds to ``dropped`` unless ``count`` is 0."""
        self._add(self.dropped, reason, count, first)

    def change(self, reason: str, count: int, first: str = '') -> None:
        """Adds to ``changed`` unless ``count`` is 0."""
        self._add(self.changed, reason, count, first)

    def lines(self) -> list[str]:
        """What was dropped and changed, a line for each reason."""
        kinds = {'dropped': self.dropped, 'changed': self.changed}
        return [
            f'{kind}: {count:,} {reason}' + (f', first {self.first[reason]}' if reason in self.first else '')
            for kind, counts in kinds.items()
            for reason, count in counts.items()
        ]

    def by_reason(self, kind: Literal['dropped', 'changed']) -> dict[str, int]:
        """Counts by reason, with the first case in brackets."""
        counts: dict[str, int] = getattr(self, kind)
        places = {reason: f'{reason} (first: {self.first[reason]})' for reason in self.first}
        return {places.get(reason, reason): count for reason, count in counts.items()}

    def _add(self, counts: dict[str, int], reason: str, count: int, first: str) -> None:
        if count:
            counts[reason] = counts.get(reason, 0) + int(count)
            if first:
                self.first.setdefault(reason, first.encode(errors='backslashreplace').decode())
