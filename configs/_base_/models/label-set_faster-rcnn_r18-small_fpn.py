# R-18 at half its width, trained from scratch, to try the whole method on a laptop. Group normalization does not depend
# on the batch, which is a few images per process here.
_base_ = ['./label-set_faster-rcnn_r50_fpn.py']

model = dict(
    backbone=dict(
        depth=18,
        base_channels=32,
        frozen_stages=-1,
        norm_cfg=dict(type='GN', num_groups=8),
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        # One sample in each bin: the number that adapts to the box takes 40 % of a CPU's step and gains nothing here.
        bbox_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(
            in_channels=64,
            fc_out_channels=256,
            reg_class_agnostic=True,
            loss_cls=dict(type='ConcurrentSoftmaxLoss'),
        ),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=300, max_per_img=200), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=200)),
)
