"""Data sets and samplers, registered with mmdet."""

from mmoid.datasets.openimages import OpenImagesHierarchyDataset
from mmoid.datasets.samplers import SoftBalanceClassAwareSampler

__all__ = ['OpenImagesHierarchyDataset', 'SoftBalanceClassAwareSampler']
