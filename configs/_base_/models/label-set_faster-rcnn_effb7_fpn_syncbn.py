# EfficientNet-B7, its stages of strides 4 to 32.
_base_ = ['./label-set_faster-rcnn_r50_fpn_syncbn.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='EfficientNet',
        arch='b7',
        drop_path_rate=0.2,
        out_indices=(2, 3, 4, 5),
        norm_cfg=dict(type='BN', eps=1e-3, momentum=0.01),
        init_cfg=dict(
            type='Pretrained',
            prefix='backbone',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/efficientnet/'
            'efficientnet-b7_3rdparty_8xb32-aa_in1k_20220119-bf03951c.pth',
        ),
    ),
    neck=dict(in_channels=[48, 80, 224, 640]),
)
