"""Figures. Each function draws one, from data, and leaves writing it to :func:`save`."""

from .boxes import draw_annotations, draw_predictions
from .class_ap import draw_class_ap
from .figure import save
from .mistakes import draw_mistakes
from .report import headlines, write_report
from .sampling import draw_sampling_plans
from .statistics import (
    draw_box_sizes,
    draw_boxes_per_image,
    draw_confusion,
    draw_group_of,
    draw_imbalance,
    draw_label_pairs,
    draw_label_set_sizes,
    draw_leaf_absence,
)
from .training import draw_training
from .training_items import draw_training_items

__all__ = [
    'draw_annotations',
    'draw_box_sizes',
    'draw_boxes_per_image',
    'draw_class_ap',
    'draw_confusion',
    'draw_group_of',
    'draw_imbalance',
    'draw_label_pairs',
    'draw_label_set_sizes',
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
