# Hybrid training from ImageNet weights: 14 epochs of images in sequence, then 7 of soft-balance sampling.
# The first stage lowers its rate where 1x does, at 4/7 and 6/7 of its length.
_base_ = ['./hybrid.py']

natural = dict(
    name='natural',
    epochs=14,
    param_scheduler=[{{_base_.warm_up}}, dict(type='MultiStepLR', milestones=[8, 12], gamma=0.1)],
)
train_cfg = dict(max_epochs=21)
custom_hooks = [dict(type='HybridSchedule', stages=[natural, {{_base_.soft_balance}}])]
