# From random weights: nothing is frozen, and the pyramid is normalised too (He et al., "Rethinking ImageNet
# Pre-training", ICCV 2019, Sec. 3.1). With few images per GPU this needs the statistics of several GPUs.
_base_ = ['./label-set_faster-rcnn_x152-32x4d_fpn_syncbn.py']

model = dict(
    backbone=dict(frozen_stages=-1, zero_init_residual=False, init_cfg=None),
    neck=dict(norm_cfg=dict(type='BN')),
)
