"""Protocol: by which of the official rules an mAP is made, and how to say so beside the number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmoid.openimages.errors import AnnotationError

PROTOCOLS = ('challenge', 'v2')


@dataclass(frozen=True)
class Protocol:
    """The choices that move an mAP by several points without any change of the model.

    Attributes:
        name: ``challenge``: ground truth expanded by the hierarchy, classes that are not verified in an image ignored,
            group-of boxes worth one true positive. ``v2``: no hierarchy, every detection counts, group-of boxes worth
            nothing.
        expand_detections: Add the ancestors of every detection first. The official evaluator does not: whoever submits
            does that, or has a model that predicts them itself.
        iou_threshold: In (0, 1].

    Raises:
        AnnotationError: Another name, a threshold out of range.
    """

    name: Literal['challenge', 'v2'] = 'challenge'
    expand_detections: bool = False
    iou_threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise AnnotationError(f'protocol must be one of {", ".join(PROTOCOLS)}, got {self.name!r}')
        if not 0 < self.iou_threshold <= 1:
            raise AnnotationError(f'iou_threshold must be in (0, 1], got {self.iou_threshold}')

    @property
    def is_challenge(self) -> bool:
        """The Challenge rules, which expand ground truth and ignore classes that are not verified."""
        return self.name == 'challenge'

    @property
    def group_of_weight(self) -> float:
        """Value of a group-of box that was found."""
        return 1.0 if self.is_challenge else 0.0

    def describe(self, has_image_labels: bool, num_images: int, num_classes: int, of_classes: int) -> str:
        """The protocol in words, for whoever reads the number.

        Args:
            has_image_labels: Whether the annotations hold image-level labels.
            num_images: Evaluated.
            num_classes: With ground truth, over which the mean is.
            of_classes: All.
        """
        if self.is_challenge:
            labels = 'with image-level labels' if has_image_labels else 'no image-level labels in the annotations'
            rules = f'Open Images Challenge metric, ground truth expanded, {labels}, group-of weight 1'
        else:
            rules = 'Open Images V2 metric, no hierarchy, all detections count, group-of weight 0'
        detections = 'expanded' if self.expand_detections else 'as predicted'
        return (
            f'{rules}, detections {detections}, IoU {self.iou_threshold:g}, {num_images} images, '
            f'{num_classes} of {of_classes} classes'
        )
