# A small RTMDet on label sets, on the generated world; no row of the paper.
# Protocol: a generated world (tools/quickstart.sh); 160 pixels, flip; 5 epochs of class-aware sampling, x 0.1 after 3
#   and 4. Challenge mAP of the validation images.
# mAP: paper: none; here: see docs/reproduction.md.
# Cost: 2 processes x 4 images; minutes on two cores.
# Run: bash tools/dist_train.sh configs/label_sets/rtmdet-small_concurrent-quality-focal_2xb4-cas-5e_synthetic.py 2
_base_ = [
    '../_base_/models/label-set_rtmdet_s.py',
    '../_base_/datasets/synthetic_small.py',
    '../_base_/schedules/schedule_5e_small.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(deepen_factor=0.167, widen_factor=0.25, norm_cfg=dict(type='GN', num_groups=8), init_cfg=None),
    neck=dict(in_channels=[64, 128, 256], out_channels=64, norm_cfg=dict(type='GN', num_groups=8)),
    bbox_head=dict(
        num_classes=37,
        in_channels=64,
        feat_channels=64,
        share_conv=False,
        norm_cfg=dict(type='GN', num_groups=8),
        loss_cls=dict(
            concurrent_rates=f'{_base_.data_root}/concurrent_rates.npz', hierarchy=f'{_base_.data_root}/train'
        ),
    ),
)
train_dataloader = dict(sampler=dict(_delete_=True, type='SoftBalanceClassAwareSampler', balance=1.0))
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.001, weight_decay=0.05))
