# A small DINO on label sets, on the generated world; no row of the paper.
# Protocol: a generated world (tools/quickstart.sh); 160 pixels, flip; 5 epochs of class-aware sampling, x 0.1 after 3
#   and 4. Challenge mAP of the validation images.
# mAP: paper: none; here: not run; 5 epochs are too few for DINO.
# Cost: 2 processes x 4 images; half an hour on two cores.
# Run: bash tools/dist_train.sh configs/label_sets/dino_r18-small_concurrent-focal_2xb4-cas-5e_synthetic.py 2
_base_ = [
    '../_base_/models/label-set_dino-4scale_r50.py',
    '../_base_/datasets/synthetic_small.py',
    '../_base_/schedules/schedule_5e_small.py',
    '../_base_/default_runtime.py',
]

model = dict(
    num_queries=100,
    backbone=dict(
        depth=18,
        base_channels=32,
        frozen_stages=-1,
        norm_cfg=dict(_delete_=True, type='GN', num_groups=8),
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[64, 128, 256]),
    encoder=dict(num_layers=2),
    decoder=dict(num_layers=2),
    bbox_head=dict(
        num_classes=37,
        loss_cls=dict(
            concurrent_rates=f'{_base_.data_root}/concurrent_rates.npz', hierarchy=f'{_base_.data_root}/train'
        ),
    ),
    test_cfg=dict(max_per_img=100),
)
train_dataloader = dict(sampler=dict(_delete_=True, type='SoftBalanceClassAwareSampler', balance=1.0))
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.0002, weight_decay=0.0001),
    clip_grad=dict(max_norm=0.1, norm_type=2),
)
