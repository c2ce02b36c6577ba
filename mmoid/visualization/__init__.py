"""Figures. Each function draws one, from data, and leaves writing it to :func:`save`."""

from mmoid.visualization.boxes import draw_annotations, draw_predictions
from mmoid.visualization.class_ap import draw_class_ap
from mmoid.visualization.figure import save
from mmoid.visualization.report import headlines, write_report
from mmoid.visualization.sampling import draw_sampling_plans
from mmoid.visualization.statistics_figures import (
    draw_box_sizes,
    draw_boxes_per_image,
    draw_confusion,
    draw_group_of,
    draw_imbalance,
    draw_label_pairs,
    draw_label_set_sizes,
    draw_leaf_absence,
)
from mmoid.visualization.training import draw_training
from mmoid.visualization.training_samples import draw_training_items
from mmoid.visualization.worst_images_sheet import draw_mistakes

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
