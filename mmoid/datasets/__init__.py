"""Data sets and samplers, registered with mmdet."""

from .openimages import OpenImagesHierarchyDataset
from .samplers import SoftBalanceClassAwareSampler

__all__ = ['OpenImagesHierarchyDataset', 'SoftBalanceClassAwareSampler']
