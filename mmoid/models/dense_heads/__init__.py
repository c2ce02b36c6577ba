"""One-stage and DETR-type heads that train on label sets, and their assigners."""

from mmoid.models.dense_heads.assigners import (
    LabelSetCost,
    LabelSetDynamicSoftLabelAssigner,
    LabelSetTaskAlignedAssigner,
)
from mmoid.models.dense_heads.label_set_head import (
    LabelSetATSSHead,
    LabelSetDeformableDETRHead,
    LabelSetDINOHead,
    LabelSetFCOSHead,
    LabelSetGFLHead,
    LabelSetHead,
    LabelSetRetinaHead,
    LabelSetRTMDetSepBNHead,
    LabelSetTOODHead,
)

__all__ = [
    'LabelSetATSSHead',
    'LabelSetCost',
    'LabelSetDINOHead',
    'LabelSetDeformableDETRHead',
    'LabelSetDynamicSoftLabelAssigner',
    'LabelSetFCOSHead',
    'LabelSetGFLHead',
    'LabelSetHead',
    'LabelSetRTMDetSepBNHead',
    'LabelSetRetinaHead',
    'LabelSetTOODHead',
    'LabelSetTaskAlignedAssigner',
]
