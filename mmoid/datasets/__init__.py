"""Data sets and samplers, registered with mmdet."""
