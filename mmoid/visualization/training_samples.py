"""What a model is fed: images after the pipeline, with label sets, group-of boxes and ignored boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from mmoid.visualization.outlines import GREY, Outline, colour_of, draw_outlines, objects_of, sheet, show_image


@dataclass(frozen=True, eq=False)
class TrainingItem:
    """One picture of a batch.

    Attributes:
        title: One line.
        picture: (H, W, 3) uint8 RGB, before normalisation and padding.
        box: (G, 4) ground truth, xmin, ymin, xmax, ymax in pixels.
        label: (G,) class indices, as annotated.
        label_set: (G, C) bool, the labels that a proposal on the box learns.
        group_of: (G,) bool.
        ignored_box: (K, 4) regions whose proposals are neither objects nor background.
        ignored_label: (K,) class indices.
        ignored_group_of: (K,) bool.
    """

    title: str
    picture: np.ndarray
    box: np.ndarray
    label: np.ndarray
    label_set: np.ndarray
    group_of: np.ndarray
    ignored_box: np.ndarray
    ignored_label: np.ndarray
    ignored_group_of: np.ndarray


def draw_training_items(
    items: Sequence[TrainingItem], class_names: Sequence[str], title: str, same_object_iou: float = 0.9
) -> Figure:
    """Draws one box an object with its annotated labels, then what the hierarchy adds (↑).

    Args:
        items: The images.
        class_names: C names.
        title: One line above all.
        same_object_iou: As of the RoI sampler.
    """
    sizes = [(item.picture.shape[1], item.picture.shape[0]) for item in items]
    figure, axes = sheet(sizes, f'{title}   —   ↑ ancestor, dashed: group-of, grey: ignored', columns=3)
    for item, ax in zip(items, axes):
        show_image(ax, item.picture, item.title)
        draw_outlines(ax, [*_objects(item, class_names, same_object_iou), *_ignored(item, class_names)])
    return figure


def _objects(item: TrainingItem, class_names: Sequence[str], same_object_iou: float) -> list[Outline]:
    outlines = []
    for members in objects_of(item.box, same_object_iou):
        annotated = list(dict.fromkeys(item.label[members].tolist()))
        added = set(np.flatnonzero(item.label_set[members].any(axis=0)).tolist()) - set(annotated)
        lines = [class_names[k] for k in annotated] + [f'↑ {class_names[k]}' for k in sorted(added)]
        outlines.append(
            _outline(item.box[members[0]], lines, colour_of(annotated[0]), bool(item.group_of[members].any()))
        )
    return outlines


def _ignored(item: TrainingItem, class_names: Sequence[str]) -> list[Outline]:
    rows = zip(item.ignored_box, item.ignored_label.tolist(), item.ignored_group_of.tolist())
    return [_outline(box, [f'{class_names[label]}, ignored'], GREY, group_of) for box, label, group_of in rows]


def _outline(box: np.ndarray, lines: Sequence[str], colour: str, dashed: bool) -> Outline:
    x_min, y_min, x_max, y_max = map(float, box)
    return Outline((x_min, y_min, x_max, y_max), tuple(lines), colour, dashed)
