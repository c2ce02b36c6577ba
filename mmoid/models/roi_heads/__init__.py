"""RoI heads and samplers that train on label sets."""

from mmoid.models.roi_heads.label_set_bbox_head import LabelSetBBoxHead
from mmoid.models.roi_heads.label_set_sampler import LabelSetSampler

__all__ = ['LabelSetBBoxHead', 'LabelSetSampler']
