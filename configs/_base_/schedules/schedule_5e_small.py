# 5 epochs, x 0.1 after 3 and 4, for a small set on a laptop.
_base_ = ['./hybrid_3e-2e_small.py']

custom_hooks = None  # one stage
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', milestones=[3, 4], gamma=0.1),
]

train_cfg = dict(val_interval=2)  # and after the last epoch
