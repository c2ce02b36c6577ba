"""Figures. Each function draws one, from data, and leaves writing it to :func:`save`."""

from .boxes import draw_annotations, draw_predictions
from .figure import save
from .training import draw_training

__all__ = ['draw_annotations', 'draw_predictions', 'draw_training', 'save']
