"""Metrics and the test loop, registered with mmdet."""
