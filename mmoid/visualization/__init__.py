"""Figures. Each function draws one from data; :func:`save` writes it."""

from mmoid.visualization.figures import draw_class_ap as draw_class_ap
from mmoid.visualization.figures import draw_comparison as draw_comparison
from mmoid.visualization.figures import draw_confusion as draw_confusion
from mmoid.visualization.figures import draw_imbalance as draw_imbalance
from mmoid.visualization.figures import draw_label_pairs as draw_label_pairs
from mmoid.visualization.figures import draw_leaf_absence as draw_leaf_absence
from mmoid.visualization.figures import draw_sampling_plans as draw_sampling_plans
from mmoid.visualization.figures import draw_training as draw_training
from mmoid.visualization.figures import save as save
from mmoid.visualization.label_sets import ImageReader as ImageReader
from mmoid.visualization.label_sets import draw_annotations as draw_annotations
from mmoid.visualization.label_sets import draw_mistakes as draw_mistakes
from mmoid.visualization.label_sets import draw_predictions as draw_predictions
from mmoid.visualization.label_sets import draw_training_items as draw_training_items
from mmoid.visualization.report import headlines as headlines
from mmoid.visualization.report import write_report as write_report
