# Sec. 5.2: SGD, learning rate 0.00125 per image of a batch, here of 32; 7 epochs, x 0.1 after 4 and 6.
# --auto-scale-lr scales the learning rate for other batches. Warm-up and gradient clipping are our choice.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.00125 * 32, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=35, norm_type=2),
)
auto_scale_lr = dict(enable=False, base_batch_size=32)

train_cfg = dict(type='ResumableEpochTrainLoop', max_epochs=7, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', milestones=[4, 6], gamma=0.1),
]
