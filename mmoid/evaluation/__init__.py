"""Metrics and the loop that tests, registered with mmdet."""

from .challenge_metric import OpenImagesChallengeMetric
from .prediction_dump import PredictionDump
from .resumable_test_loop import ResumableTestLoop

__all__ = ['OpenImagesChallengeMetric', 'PredictionDump', 'ResumableTestLoop']
