# RTMDet-s on label sets; no row of the paper.
# Protocol: challenge, 500 classes, 1.7M images; 640 pixels, random size and crop, flip; 14 epochs of shuffled images,
#   x 0.1 after 8 and 12, then 7 of soft balance from the initial lr, x 0.1 after 4 and 6. Challenge mAP of the validation
#   images.
# mAP: paper: none; here: not run, needs the data set.
# Cost: 8 GPUs x 32 images (mmdet's), 21 epochs of 6,641 iterations; GPU hours not known.
# Run: bash tools/dist_train.sh configs/label_sets/rtmdet_s_concurrent-quality-focal_8xb32-hybrid-14e-7e_openimages-challenge.py 8
_base_ = [
    '../_base_/models/label-set_rtmdet_s.py',
    '../_base_/datasets/openimages.py',
    '../_base_/schedules/hybrid_14e-7e.py',
    '../_base_/default_runtime.py',
]

# mmdet's augmentation without Mosaic and MixUp, which would mix images of different verified classes.
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='RandomResize', scale=(640, 640), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(640, 640)),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=(640, 640), pad_val=dict(img=(114, 114, 114))),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale=(640, 640), keep_ratio=True),
    dict(type='Pad', size=(640, 640), pad_val=dict(img=(114, 114, 114))),
    *_base_.test_pipeline[2:],
]
# mmdet's for RTMDet
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0] = [dict(type='Resize', scale=(side, side), keep_ratio=True) for side in (640, 320, 960)]
tta_pipeline[1].transforms.insert(2, [dict(type='Pad', size=(960, 960), pad_val=dict(img=(114, 114, 114)))])
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.004, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True),
)
auto_scale_lr = dict(base_batch_size=256)
