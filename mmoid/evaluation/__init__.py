"""Metrics and the test loop, registered with mmdet."""

from mmoid.evaluation.challenge_metric import OpenImagesChallengeMetric
from mmoid.evaluation.prediction_dump import PredictionDump
from mmoid.evaluation.resumable_test_loop import ResumableTestLoop

__all__ = ['OpenImagesChallengeMetric', 'PredictionDump', 'ResumableTestLoop']
