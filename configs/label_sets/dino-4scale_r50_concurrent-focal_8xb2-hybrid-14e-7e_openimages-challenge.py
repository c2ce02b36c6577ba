# DINO R-50 on label sets; no row of the paper.
# Protocol: challenge, 500 classes, 1.7M images; 480 to 1120 pixels, flip; 14 epochs of shuffled images, x 0.1 after 8 and
#   12, then 7 of soft balance from the initial lr, x 0.1 after 4 and 6. Challenge mAP of the validation images.
# mAP: paper: none; here: not run, needs the data set.
# Cost: 8 GPUs x 2 images (mmdet's), 21 epochs of 106,250 iterations; GPU hours not known.
# Run: bash tools/dist_train.sh configs/label_sets/dino-4scale_r50_concurrent-focal_8xb2-hybrid-14e-7e_openimages-challenge.py 8
_base_ = [
    '../_base_/models/label-set_dino-4scale_r50.py',
    '../_base_/datasets/openimages_multi_scale.py',
    '../_base_/schedules/hybrid_14e-7e.py',
    '../_base_/default_runtime.py',
]

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.0001, weight_decay=0.0001),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}),
)
auto_scale_lr = dict(base_batch_size=16)
