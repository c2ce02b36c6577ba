# Hybrid training in miniature: 3 epochs of shuffled images, then 2 of soft-balance sampling.
train_cfg = dict(type='ResumableEpochTrainLoop', max_epochs=5, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=10, norm_type=2),
)
auto_scale_lr = dict(enable=False, base_batch_size=8)

param_scheduler = None  # each stage has its own
custom_hooks = [
    dict(
        type='HybridSchedule',
        stages=[
            dict(
                name='natural',
                epochs=3,
                sampler=dict(type='DefaultSampler', shuffle=True),
                param_scheduler=[
                    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
                    dict(type='MultiStepLR', milestones=[2], gamma=0.1),
                ],
            ),
            dict(
                name='soft balance',
                epochs=2,
                sampler=dict(type='SoftBalanceClassAwareSampler', balance=0.7),
                param_scheduler=[dict(type='MultiStepLR', milestones=[1], gamma=0.1)],
            ),
        ],
    )
]
