# Sec. 5: SGD, learning rate 0.00125 for each image of a batch, here of 32; --auto-scale-lr keeps to it with other
# batches. Warm-up and clipping are ours.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.00125 * 32, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=35, norm_type=2),
)
auto_scale_lr = dict(enable=False, base_batch_size=32)
warm_up = dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000)

train_cfg = dict(type='ResumableEpochTrainLoop', val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
