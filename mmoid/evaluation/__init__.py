"""Metrics, registered with mmdet."""

from .challenge_metric import OpenImagesChallengeMetric
from .prediction_dump import PredictionDump

__all__ = ['OpenImagesChallengeMetric', 'PredictionDump']
