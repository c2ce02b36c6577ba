"""Figures. Each function draws one from data; :func:`save` writes it."""

from mmoid.visualization.figures import (
    draw_class_ap,
    draw_comparison,
    draw_confusion,
    draw_imbalance,
    draw_label_pairs,
    draw_leaf_absence,
    draw_sampling_plans,
    draw_training,
    save,
)
from mmoid.visualization.label_sets import ImageReader, draw_annotations, draw_predictions, draw_training_items
from mmoid.visualization.report import headlines, write_report
from mmoid.visualization.worst_images_sheet import draw_mistakes

__all__ = [
    'ImageReader',
    'draw_annotations',
    'draw_class_ap',
    'draw_comparison',
    'draw_confusion',
    'draw_imbalance',
    'draw_label_pairs',
    'draw_leaf_absence',
    'draw_mistakes',
    'draw_predictions',
    'draw_sampling_plans',
    'draw_training',
    'draw_training_items',
    'headlines',
    'save',
    'write_report',
]
