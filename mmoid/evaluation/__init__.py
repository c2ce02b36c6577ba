"""Metrics and the test loop, registered with mmdet."""

from mmoid.evaluation.challenge_metric import OpenImagesChallengeMetric
from mmoid.evaluation.resumable_test import PredictionDump, ResumableTestLoop

__all__ = ['OpenImagesChallengeMetric', 'PredictionDump', 'ResumableTestLoop']
