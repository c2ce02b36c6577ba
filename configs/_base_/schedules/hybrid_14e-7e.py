# Hybrid training (Sec. 4.3) from ImageNet weights: 14 epochs of shuffled images, then 7 of soft-balance sampling with the
# schedule of 1x, from the initial learning rate. Stage 1 lowers it where 1x does, at 4/7 and 6/7 of its length.
_base_ = ['./schedule_1x.py']

train_cfg = dict(max_epochs=21)
param_scheduler = None  # each stage has its own
custom_hooks = [
    dict(
        type='HybridSchedule',
        stages=[
            dict(
                name='natural',
                epochs=14,
                param_scheduler=[
                    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
                    dict(type='MultiStepLR', milestones=[8, 12], gamma=0.1),
                ],
            ),
            dict(
                name='soft balance',
                epochs=7,
                sampler=dict(type='SoftBalanceClassAwareSampler', balance=0.7),
                param_scheduler=[dict(type='MultiStepLR', milestones=[4, 6], gamma=0.1)],
            ),
        ],
    )
]
