# The baseline of Table 4: one label for each box. 32x4d is the ResNeXt-152 that has public ImageNet weights.
_base_ = ['./faster-rcnn_r50_fpn_syncbn.py']

model = dict(
    backbone=dict(
        type='ResNeXt',
        depth=152,
        groups=32,
        base_width=4,
        init_cfg=dict(checkpoint='mmcls://resnext152_32x4d'),
    ),
    roi_head=dict(bbox_head=dict(loss_cls=dict(type='SoftmaxLoss'))),
)
