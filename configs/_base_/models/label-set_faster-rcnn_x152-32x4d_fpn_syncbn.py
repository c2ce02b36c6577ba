# 32x4d is the ResNeXt-152 that has public ImageNet weights.
_base_ = ['./label-set_faster-rcnn_r50_fpn_syncbn.py']

model = dict(
    backbone=dict(
        type='ResNeXt',
        depth=152,
        groups=32,
        base_width=4,
        init_cfg=dict(checkpoint='mmcls://resnext152_32x4d'),
    )
)
